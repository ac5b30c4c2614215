"""The contract of a modality: what a plug-in registers."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..core.errors import ConfigError
from .dataset import DatasetConfig
from .tokenizer import Tokenizer, TokenizerConfig


@dataclass(frozen=True, eq=False)
class Stretch:
    """A stretch of a long sample, encoded alone, with margins that its neighbours stand for.

    Args:
        value: what the tokenizer takes.
        first: where the value begins, in level-0 steps of the whole.
        own: from where to where it stands for the whole, in the same steps.
    """

    value: Any
    first: float
    own: tuple[float, float]


class Modality(ABC):
    """What a plug-in registers."""

    name: ClassVar[str]
    tokenizer: ClassVar[type[TokenizerConfig]]
    datasets: ClassVar[tuple[type[DatasetConfig], ...]]
    suffixes: ClassVar[frozenset[str] | None] = None
    """How the names of files end that :meth:`read` reads, in lower case, with the dot. When ``None``, any file of a
    folder is tried that belongs to no other modality."""
    extra: ClassVar[str] = ""
    """The extra of its distribution that brings the libraries it uses; empty when it needs none."""

    @classmethod
    def figures(cls) -> Callable[..., None] | None:
        """Draws a sample for reports, where the modality says how: ``draw(axes, tokenizer, tokens)``.

        It gets matplotlib axes and the raw tokens of one sample. Each level-0 token covers a unit cell: along x in one
        dimension, of rows and columns on a grid; of more than two axes the middle of the leading ones is drawn.
        Groups and weights are laid over it.
        """
        return None

    @classmethod
    def timeline(cls, value: Any) -> Mapping[str, Sequence[tuple[float, float, str]]]:
        """What is known of a raw sample in time, for reports: by name, parts with their start, end and label.

        Args:
            value: the sample's; times are in seconds from its beginning.
        """
        return {}

    @classmethod
    def read(cls, path: Path) -> Any:
        """A raw sample from a file, for queries and collections of files.

        Raises:
            BadSample: the file is missing, or is none of this modality; says what is.
            ConfigError: the modality has no files of its own.
        """
        raise ConfigError(f"the modality {cls.name} does not read files")

    @classmethod
    def read_for(cls, path: Path, tokenizer: Tokenizer) -> Any:
        """The same for a tokenizer: what is longer than it takes may be refused before it is read whole.

        Args:
            path: the file.
            tokenizer: of the modality.

        Raises:
            BadSample: as :meth:`read`, or the tokenizer would refuse it.
        """
        return cls.read(path)

    @classmethod
    def seconds(cls, path: Path) -> float | None:
        """How long a file lasts, found without decoding it; nothing where it has no length in time.

        Raises:
            BadSample: the file is missing, or is none of this modality; says what is.
        """
        return None

    @classmethod
    def stretches(cls, path: Path, tokenizer: Tokenizer, seconds: float) -> Iterator[Stretch] | None:
        """A long file in stretches that follow each other, so that one need not be held whole.

        Args:
            path: the file.
            tokenizer: whose steps are counted.
            seconds: of a stretch, about.

        Returns:
            Nothing where the file lasts no longer than a stretch, or the modality reads files whole.

        Raises:
            BadSample: as :meth:`read`.
        """
        return None

    @classmethod
    def passage(cls, value: Any, span: tuple[float, float] | None = None) -> str | None:
        """A raw sample, or a part of it, as text, where it is text.

        Args:
            value: the sample's.
            span: of the part, in the modality's units; the whole when absent.
        """
        return None

    @classmethod
    def shown(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes] | None:
        """A raw sample, or a part of it, as a file that a page can show; nothing where it is its own text.

        Args:
            value: the sample's.
            span: of the part, in the modality's units; the whole when absent.

        Returns:
            The file's suffix and its bytes.
        """
        return None
