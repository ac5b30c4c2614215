"""The contract of tokenizers: raw samples to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..core.component import Component
from ..core.errors import ConfigError
from ..core.tokens import Tokens
from .extents import Extents


class TokenStream(Protocol):
    """Raw tokens of a sample that comes in chunks of any size."""

    def feed(self, chunk: Any, /) -> Tensor:
        """(T, ...) the raw tokens that a chunk completes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """

    def flush(self) -> Tensor:
        """Those that are left, at the end of the sample."""


class Tokenizer(ABC):
    """Turns raw samples into tokens. Holds no parameters, so that it runs in loader workers."""

    axes: int
    """Axes of the coordinates."""
    levels: tuple[str, ...]
    """Natural names of the levels, fine to coarse."""
    boundaries: tuple[str, ...] = ()
    """Names of the boundaries that it can give."""
    features: int | None = None
    """Width of what :meth:`targets` gives, where those are features."""
    vocabulary: int | None = None
    """How many ids there are, where :meth:`targets` gives ids."""
    separator: int | None = None
    """The id that stands where a document starts: what generation starts from without a prompt, and stops at."""
    causal_boundaries: tuple[str, ...] = ()
    """Those of ``boundaries`` that a causal hierarchy may group by: whether a group starts at a token follows from
    that token and the one before it."""
    recent: int = 1
    """Tokens that the embedding of one is made of: itself, and in modalities of one axis maybe a few before it."""
    ahead: int = 0
    """Tokens after a token that its embedding is made of too; a causal hierarchy takes none."""
    whole: str = ""
    """The setting by which each token depends on its whole sample, where one does; a causal hierarchy takes none."""
    carried: tuple[str, ...] = ()
    """Those of ``boundaries`` that come with the data. A bare file does not have them."""
    expected: Extents | None = None
    """The sizes that training saw, where inputs of other sizes are to be brought to them; inputs stay as they are
    without it."""
    wanted: frozenset[str] = frozenset()
    """The boundaries that the model groups by; others need not be found."""

    @property
    def seconds_per_token(self) -> float | None:
        """Time that a step along the first axis stands for, where that axis is time."""
        return None

    @abstractmethod
    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs raw samples.

        Raises:
            BadSample: a value cannot be tokenized; says which and why.
        """

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """The module that takes packed raw tokens to tokens of width ``dim``: ``forward(Tokens) -> Tokens``."""

    def size(self, shape: Sequence[int]) -> int:
        """Level-0 tokens of a sample of this raw shape, where it is known before reading; for batches by tokens."""
        raise ConfigError(f"{type(self).__name__} does not know sizes in advance; use train.batch_size")

    def targets(self, tokens: Tokens) -> Tensor:
        """What masked modelling reconstructs: (T, P) features or (T,) ids of raw tokens."""
        return tokens.x

    def restore(self, tokens: Tokens) -> list[Any]:
        """Raw samples from raw tokens, where that has meaning; the inverse of calling it."""
        raise ConfigError(f"{type(self).__name__} cannot turn tokens back into samples")

    def steps(self, value: Any, places: Sequence[float]) -> Sequence[float]:
        """Where places in a raw sample lie along the first axis, in level-0 steps.

        Args:
            value: the sample.
            places: in the modality's units: seconds where that axis is time, else steps.
        """
        unit = self.seconds_per_token or 1.0
        return [place / unit for place in places]

    def places(self, value: Any, steps: Sequence[float]) -> Sequence[float]:
        """Where level-0 steps lie in a raw sample, in the modality's units; the inverse of :meth:`steps`.

        Args:
            value: the sample.
            steps: along the first axis.
        """
        unit = self.seconds_per_token or 1.0
        return [step * unit for step in steps]

    def box(self, value: Any, steps: Sequence[float]) -> tuple[float, float, float, float]:
        """Where a part of a picture lies in it: left, top, right and bottom in pixels.

        Args:
            value: the sample.
            steps: the level-0 steps at which the part begins and ends: top, left, bottom and right.
        """
        raise ConfigError(f"{type(self).__name__} reads no pictures")

    def stream(self, **source: Any) -> TokenStream:
        """What turns raw chunks into tokens as they come, with the same result as the whole sample at once.

        Args:
            source: what chunks are like, in the modality's words: ``rate`` of a sound.
        """
        raise ConfigError(f"{type(self).__name__} cannot be read in chunks")

    def vocabularies(self) -> Mapping[str, str]:
        """Digests of what its ids mean, by the setting that names a file of it; nothing where no file is read.

        A run goes on with the same vocabularies alone.
        """
        return {}

    def num_bytes(self, ids: Tensor) -> Tensor | None:
        """How many bytes each of the ids stands for, where that has meaning; for bits per byte."""
        return None

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether a group starts at a new token, for decoding.

        Args:
            boundary: one of ``causal_boundaries``.
            previous: (B,) ids before the new ones, of any device; -1 for none, where a group always starts.
            ids: (B,) new ids.

        Returns:
            (B,) bool.
        """
        raise ConfigError(f"{type(self).__name__} gives no boundary {boundary!r} while it decodes")

    def prompts(self, values: Sequence[Any]) -> Tokens:
        """Packs what generation starts from: a separator and a raw sample, which may be empty."""
        raise ConfigError(f"{type(self).__name__} has no prompts")

    def writer(self) -> Callable[[int], str]:
        """Turns ids into text one by one, for decoding: gives what each id completes, often a character, or nothing."""
        raise ConfigError(f"{type(self).__name__} does not write text")


@runtime_checkable
class Towers(Protocol):
    """A tokenizer of several towers, each with its own."""

    towers: Mapping[str, Tokenizer]


class TokenizerConfig(Component):
    """Configuration of a modality's tokenizer; a subclass fixes ``type`` to the modality's name."""

    type: str

    def build(self, blocks: Callable[[int], tuple[tuple[int, ...], ...]]) -> Tokenizer:
        """The tokenizer.

        Args:
            blocks: for a number of axes, the nested blocks that grids are to be ordered by
                (:func:`hrt_mm.core.levels.blocks` of the model's configuration).
        """
        raise NotImplementedError(type(self))
