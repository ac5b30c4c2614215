"""What only some tokenizers and modalities can do.

Each capability is asked for with ``isinstance(tokenizer, ...)`` or ``issubclass(modality, ...)``. The protocols are
structural: a class that has the members has the capability, and need not inherit from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.tokens import Tokens
from .extents import Extents
from .modality import Modality
from .tokenizer import Tokenizer

# Tokenizers: what tokens are.


@runtime_checkable
class Discrete(Protocol):
    """Its raw tokens are ids, for language modelling and masked modelling."""

    vocabulary: int
    """Number of ids."""


@runtime_checkable
class Continuous(Protocol):
    """Its raw tokens are feature vectors, for masked modelling."""

    features: int
    """Width of a raw token."""


@runtime_checkable
class Reconstructing(Protocol):
    """Masked modelling reconstructs something other than the raw tokens themselves."""

    def targets(self, tokens: Tokens) -> Tensor:
        """(T, P) features or (T,) ids to reconstruct from raw tokens."""


def reconstruction_targets(tokenizer: Tokenizer, tokens: Tokens) -> Tensor:
    """What masked modelling reconstructs: (T, P) features or (T,) ids; the raw tokens unless the tokenizer differs."""
    return tokenizer.targets(tokens) if isinstance(tokenizer, Reconstructing) else tokens.x


@runtime_checkable
class DenseLabels(Protocol):
    """Its raw tokens are patches of pixels that can be labelled, for semantic segmentation."""

    labels_per_token: int
    """Number of pixels of a token."""

    def label_tokens(self, masks: Sequence[Tensor], missing: int) -> Tensor:
        """(T, P) labels of the pixels of each token, resized and ordered as the tokens of the images are.

        Args:
            masks: (H, W) int64, each of the size of its image.
            missing: label of pixels that pad an image.
        """

    def label_maps(self, tokens: Tokens, labels_TP: Tensor) -> list[Tensor]:
        """(H, W) maps of the labels of each image, of the size that its tokens are of, with padding."""

    def labels_of(self, value: Any, label_map: Tensor, missing: int) -> Tensor:
        """(H, W) labels of the pixels of a raw image, from its map.

        Args:
            value: the image.
            label_map: as :meth:`label_maps` gives it.
            missing: label of pixels that no token has seen.
        """


@runtime_checkable
class VocabularyFiles(Protocol):
    """The meaning of its ids comes from files. A run can only be resumed with the same ones."""

    def vocabularies(self) -> Mapping[str, str]:
        """Digests of what its ids mean, by the setting that names a file."""


@runtime_checkable
class Sized(Protocol):
    """It knows the number of tokens from a sample's shape, for batches by tokens (``train.batch_tokens``)."""

    def size(self, shape: Sequence[int]) -> int:
        """Number of level-0 tokens of a sample of this raw shape."""


class Contextual:
    """Its embedding sees more than the token itself, on one axis. A mixin with defaults."""

    receptive_field: int = 1
    """Number of tokens that the embedding of a token depends on, up to and including itself."""
    lookahead: int = 0
    """Number of later tokens that the embedding of a token depends on; 0 in causal models."""
    non_causal_setting: str = ""
    """The setting that makes each token depend on its whole sample, if any; causal models refuse it."""


def receptive_field(tokenizer: Tokenizer) -> int:
    """Number of tokens that the embedding of a token depends on, up to and including itself."""
    return tokenizer.receptive_field if isinstance(tokenizer, Contextual) else 1


def lookahead(tokenizer: Tokenizer) -> int:
    """Number of later tokens that the embedding of a token depends on."""
    return tokenizer.lookahead if isinstance(tokenizer, Contextual) else 0


class SizeAdapting:
    """It can resize inputs to the nearest size that training saw. A mixin."""

    extents: Extents | None = None
    """The sizes that training saw; ``None`` leaves inputs as they are. See :meth:`with_extents`."""

    def with_extents(self, extents: Extents | None) -> Self:
        """A copy that brings inputs of other sizes to the nearest of these."""
        tokenizer = copy(self)
        tokenizer.extents = extents
        return tokenizer


# Tokenizers: causal models, text and streams.


@runtime_checkable
class CausalBoundaries(Protocol):
    """It has boundaries that a causal hierarchy may group by: each follows from a token and the one before it."""

    causal_boundaries: tuple[str, ...]
    """The subset of ``boundaries`` that does not look ahead."""

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether a group starts at a new token, for decoding.

        Args:
            boundary: one of ``causal_boundaries``.
            previous: (B,) ids before the new ones, on any device; -1 for none, where a group always starts.
            ids: (B,) new ids.

        Returns:
            (B,) bool.
        """


def causal_boundaries(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The boundaries that a causal hierarchy may group by."""
    return tokenizer.causal_boundaries if isinstance(tokenizer, CausalBoundaries) else ()


@runtime_checkable
class Generative(Protocol):
    """A language model over its ids can write text."""

    vocabulary: int
    """Number of ids."""
    separator: int
    """The id at the start of a document: generation starts from it without a prompt, and stops at it."""

    def prompts(self, values: Sequence[Any]) -> Tokens:
        """Packs what generation starts from: a separator and a raw sample, which may be empty."""

    def writer(self) -> Callable[[int], str]:
        """A decoder of ids, one by one: it returns the text that each id completes, often a character or nothing."""


def writing(tokenizer: Tokenizer) -> Generative:
    """The tokenizer, as one that writes text.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(tokenizer, Generative):
        raise ConfigError(f"{type(tokenizer).__name__} does not write text")
    return tokenizer


@runtime_checkable
class Restoring(Protocol):
    """Tokens are pieces of text, which can be put together again."""

    def restore(self, tokens: Tokens) -> list[bytes]:
        """The text of each sample."""


@runtime_checkable
class ByteCounting(Protocol):
    """Its ids stand for bytes, for the metric bits per byte."""

    def num_bytes(self, ids: Tensor) -> Tensor:
        """Number of bytes that each id stands for, with the shape of ``ids``."""


class TokenStream(Protocol):
    """Raw tokens of a sample that arrives in chunks of any size."""

    def feed(self, chunk: Any, /) -> Tensor:
        """(T, ...) the raw tokens that a chunk completes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """

    def flush(self) -> Tensor:
        """(T, ...) the remaining tokens at the end of the sample."""


@runtime_checkable
class Streamable(Protocol):
    """It tokenizes samples that arrive in chunks."""

    def stream(self, **source: Any) -> TokenStream:
        """A stream with the same tokens as the whole sample at once.

        Args:
            source: what chunks are like, in the modality's terms: ``rate`` of a sound.
        """


def token_stream(tokenizer: Tokenizer, **source: Any) -> TokenStream:
    """A stream of raw tokens.

    Args:
        tokenizer: of the stream's samples.
        source: what its ``stream`` takes.

    Raises:
        ConfigError: the tokenizer needs whole samples.
    """
    if not isinstance(tokenizer, Streamable):
        raise ConfigError(f"{type(tokenizer).__name__} cannot be read in chunks")
    return tokenizer.stream(**source)


@runtime_checkable
class Exportable(Protocol):
    """It makes dense batches, which exported models take, and the first operations of their graphs."""

    def dense_axes(self) -> Mapping[str, Mapping[int, str]]:
        """Names of the axes of unknown size of each input, by input; the first axis is ``batch``."""

    def dense_example(self, size: int) -> Any:
        """A raw sample of random content.

        Args:
            size: a positive number that the sample's size grows with, where sizes may differ.
        """

    def dense_batch(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """The inputs of a batch of raw samples.

        Raises:
            BadSample: a value cannot be used.
            UserError: grids in one batch have different shapes.
        """

    def dense_tokens(self, embedding: nn.Module, inputs: Mapping[str, Tensor], unit: Sequence[int]) -> Tokens:
        """The embedded tokens of a batch, as operations that can be traced with symbolic sizes.

        Args:
            embedding: the module that :meth:`~hrt_mm.data.tokenizer.Tokenizer.embedding` made.
            inputs: by name.
            unit: level-0 cells per token of the coarsest level, along each axis.
        """

    def dense_metadata(self) -> Mapping[str, Any]:
        """How inputs are made of files: sizes, rates and normalization, as plain data."""


# Tokenizers: where tokens lie in a sample.


@runtime_checkable
class Timed(Protocol):
    """Its first axis is time."""

    @property
    def seconds_per_token(self) -> float:
        """Seconds of a step along the first axis."""


@runtime_checkable
class Locating(Protocol):
    """It maps between positions in a raw sample and level-0 steps along the first axis."""

    def steps(self, value: Any, positions: Sequence[float]) -> Sequence[float]:
        """Level-0 steps of positions in a sample, which are in the modality's units."""

    def positions(self, value: Any, steps: Sequence[float]) -> Sequence[float]:
        """Positions in a sample of level-0 steps; the inverse of :meth:`steps`."""


@runtime_checkable
class BoxLocating(Protocol):
    """It locates parts of a picture."""

    def box(self, value: Any, steps: Sequence[float]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a part of a picture, in pixels.

        Args:
            value: the sample.
            steps: top, left, bottom and right of the part in level-0 steps.
        """


def seconds_per_token(tokenizer: Tokenizer) -> float | None:
    """Seconds of a step along the first axis; ``None`` if that axis is not time."""
    return tokenizer.seconds_per_token if isinstance(tokenizer, Timed) else None


def steps_at(tokenizer: Tokenizer, value: Any, positions: Sequence[float]) -> Sequence[float]:
    """Level-0 steps along the first axis of positions in a raw sample.

    Args:
        tokenizer: of the sample.
        value: the sample.
        positions: in seconds if that axis is time, else in the modality's own units.
    """
    if isinstance(tokenizer, Locating):
        return tokenizer.steps(value, positions)
    unit = seconds_per_token(tokenizer) or 1.0
    return [position / unit for position in positions]


def positions_at(tokenizer: Tokenizer, value: Any, steps: Sequence[float]) -> Sequence[float]:
    """Positions in a raw sample of level-0 steps along the first axis; the inverse of :func:`steps_at`."""
    if isinstance(tokenizer, Locating):
        return tokenizer.positions(value, steps)
    unit = seconds_per_token(tokenizer) or 1.0
    return [step * unit for step in steps]


# Modalities: files.


@dataclass(frozen=True, eq=False)
class Stretch:
    """A stretch of a long sample that is encoded alone, with margins that overlap its neighbours.

    Args:
        value: the input of the tokenizer.
        first: start of the value, in level-0 steps of the whole.
        core: start and end without the margins, in the same steps. The cores of all stretches cover the whole.
    """

    value: Any
    first: float
    core: tuple[float, float]


@runtime_checkable
class FileReading(Protocol):
    """The modality reads bare files, for queries and collections of files."""

    @classmethod
    def read(cls, path: Path) -> Any:
        """The raw sample of a file.

        Raises:
            BadSample: the file is missing, or not of this modality; says what is wrong.
        """


@runtime_checkable
class LimitedReading(Protocol):
    """The modality stops reading a file that its tokenizer would refuse."""

    @classmethod
    def read_for(cls, path: Path, tokenizer: Tokenizer) -> Any:
        """The raw sample of a file.

        Args:
            path: the file.
            tokenizer: of the modality.

        Raises:
            BadSample: the file is missing, not of this modality, or too long for the tokenizer.
        """


def read_file(modality: type[Modality], path: Path, tokenizer: Tokenizer) -> Any:
    """The raw sample of a file.

    Args:
        modality: of the file.
        path: the file.
        tokenizer: of the modality.

    Raises:
        BadSample: the file is missing, not of this modality, or too long for the tokenizer.
        ConfigError: the modality does not read files.
    """
    if issubclass(modality, LimitedReading):
        return modality.read_for(path, tokenizer)
    if issubclass(modality, FileReading):
        return modality.read(path)
    raise ConfigError(f"the modality {modality.name} does not read files")


@runtime_checkable
class ValueReading(Protocol):
    """The modality reads values in memory, such as Pillow images and arrays, as queries."""

    @classmethod
    def reads_value(cls, value: object) -> bool:
        """Whether the type and shape of a value may be those of a sample."""

    @classmethod
    def from_value(cls, value: Any) -> Any:
        """The raw sample of a value.

        Raises:
            BadSample: the value cannot be used; says why.
        """


@runtime_checkable
class Lasting(Protocol):
    """Files of the modality have a duration."""

    @classmethod
    def seconds(cls, path: Path) -> float:
        """Duration of a file, without decoding it.

        Raises:
            BadSample: the file is missing, or not of this modality; says what is wrong.
        """


@runtime_checkable
class Divisible(Protocol):
    """Long files of the modality can be read in stretches, so that they need not fit into memory."""

    @classmethod
    def stretches(cls, path: Path, tokenizer: Tokenizer, seconds: float) -> Iterator[Stretch] | None:
        """Consecutive stretches of a long file.

        Args:
            path: the file.
            tokenizer: whose steps are counted.
            seconds: approximate duration of a stretch.

        Returns:
            ``None`` if the file is no longer than a stretch.

        Raises:
            BadSample: the file is missing, or not of this modality; says what is wrong.
        """


# Modalities: pages and reports.


@runtime_checkable
class Textual(Protocol):
    """Samples of the modality are text."""

    @classmethod
    def passage(cls, value: Any, span: tuple[float, float] | None = None) -> str:
        """A raw sample, or a part of it, as text.

        Args:
            value: of the sample.
            span: of the part, in the modality's units; the whole when absent.
        """


@runtime_checkable
class Renderable(Protocol):
    """Samples of the modality can be rendered as files for web pages."""

    @classmethod
    def render(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes]:
        """The suffix and the bytes of a file that browsers display, of a raw sample or a part of it.

        Args:
            value: of the sample.
            span: of the part, in the modality's units; the whole when absent.
        """


@runtime_checkable
class Drawing(Protocol):
    """The modality draws its samples for reports."""

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """A function that draws a sample: ``draw(axes, tokenizer, tokens)``.

        It gets matplotlib axes and the raw tokens of one sample. Each level-0 token covers a unit cell: along x in one
        dimension, rows and columns on a grid; of more than two axes the middle of the leading ones is drawn. Groups
        and weights are drawn over it.
        """


@runtime_checkable
class Timelined(Protocol):
    """Samples of the modality have labelled times."""

    @classmethod
    def timeline(cls, value: Any) -> Mapping[str, Sequence[tuple[float, float, str]]]:
        """Labelled times of a raw sample, for reports: by name, the start, end and label of each part.

        Args:
            value: of the sample; times are in seconds from its start.
        """


@runtime_checkable
class DenseEncoding(Protocol):
    """Encoders of its runs can be given timm's interface: dense batches in, feature maps and logits out."""

    @classmethod
    def dense_model(cls, encoder: nn.Module, tokenizer: Tokenizer, **options: Any) -> nn.Module:
        """A model with timm's interface and the weights of a trained encoder.

        Args:
            encoder: of the run's task.
            tokenizer: of the run.
            options: of the model, such as ``num_classes``.

        Raises:
            ConfigError: the encoder has settings that this interface does not support.
        """
