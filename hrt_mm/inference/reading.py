"""Reading what a tower of a trained run takes: files, texts and values in memory, as the run's data prepares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import BadSample, ConfigError
from ..data.capabilities import Divisible, Renderable, Textual, ValueReading, read_file
from ..data.contained import ContainedFile
from ..data.dataset import DatasetConfig
from ..data.files import check_regular
from ..data.modality import Modality
from ..data.registry import modalities
from ..data.tokenizer import Tokenizer

MAX_TEXT = 2_000
"""Maximum characters of a text to display."""


@dataclass(frozen=True)
class TowerReader:
    """Reads what a tower takes. It has no weights, so that it can be sent to a worker.

    Args:
        tower: its name.
        modality: of the tower.
        tokenizer: of the tower.
        data: the run's data, which prepares raw values.
        annotations: boundaries that the model groups by and that bare files do not have.
    """

    tower: str
    modality: type[Modality]
    tokenizer: Tokenizer
    data: DatasetConfig
    annotations: tuple[str, ...] = ()

    def read(self, source: Any) -> Any:
        """The raw value of a source, as the run's data prepares it.

        Args:
            source: a file as a :class:`~pathlib.Path` or a :class:`~hrt_mm.data.contained.ContainedFile`; a ``str``,
                which is a text for towers of text, and the path of a file for others; or a value in memory, such as a
                tensor, an array or a Pillow image.

        Raises:
            BadSample: the text is empty, or the file is missing, not regular, or of another modality.
            ConfigError: the model groups by annotations, which files do not have.
        """
        if self.annotations and isinstance(source, str | Path):
            raise ConfigError(
                f"the model of {self.tower} groups by {', '.join(map(repr, self.annotations))}, which come with the "
                "data and are in no bare file; train one with fixed or learned groups"
            )
        if isinstance(source, ContainedFile):
            source = source.path()
        elif isinstance(source, str) and not issubclass(self.modality, Textual):
            source = Path(source)
        if isinstance(source, Path):
            size_of(source)
            source = read_file(self.modality, source, self.tokenizer)
        elif isinstance(source, str) and not source.strip():
            raise BadSample("the text", "is empty; give some words")
        elif issubclass(self.modality, ValueReading) and self.modality.reads_value(source):
            source = self.modality.from_value(source)
        return self.data.prepare(self.tower, source)

    def suffixes(self) -> tuple[frozenset[str] | None, frozenset[str]]:
        """Suffixes of files that the tower reads, ``None`` for all, and suffixes to exclude, of other modalities."""
        if self.modality.suffixes is not None:
            return self.modality.suffixes, frozenset()
        return None, frozenset().union(*(other.suffixes or () for other in modalities().values()))

    def divides(self, path: Path, window: float) -> bool:
        """Whether a file is so long that it is encoded in stretches."""
        return issubclass(self.modality, Divisible) and (
            self.modality.stretches(path, self.tokenizer, window) is not None
        )

    def text(self, value: Any, span: tuple[float, float] | None = None) -> dict[str, str]:
        """The text to display of a value or a part of it, for modalities of text."""
        if not issubclass(self.modality, Textual):
            return {}
        passage = self.modality.passage(value, span)
        return {"text": passage if len(passage) <= MAX_TEXT else f"{passage[:MAX_TEXT]}..."}

    def media(self, value: Any) -> tuple[str, bytes] | None:
        """Suffix and bytes of a file to display, for modalities that have one."""
        return self.modality.render(value) if issubclass(self.modality, Renderable) else None


def size_of(path: Path) -> int:
    """Size of a regular file, in bytes.

    Raises:
        BadSample: it is missing, or not a regular file.
    """
    try:
        return check_regular(path, str(path)).st_size
    except FileNotFoundError as error:
        raise BadSample(str(path), "no such file") from error
    except OSError as error:
        raise BadSample(str(path), f"cannot be read: {error.strerror}") from error
