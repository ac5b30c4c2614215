"""Columns of a table with samples of several modalities, and how each modality is read from its cells."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.tables import is_missing

from ..audio.augment import Augmentation as SoundAugmentation
from ..audio.augment import chain as sound_chain
from ..audio.recordings import Recording, Recordings
from ..common.media import FileItem
from ..common.tables import Paths, Row, SpanColumns, seconds_of
from ..video.clips import Clip, Clips, Reading
from ..video.readers import MAX_PIXELS as MAX_FRAME
from ..video.sampling import AllFrames, DenseSampling, Sampling
from ..vision.augment import Augmentation, chain
from ..vision.files import ImageFiles
from ..vision.images import MAX_PIXELS


class ColumnSource(Component, ABC):
    """The columns of a modality. A row with an empty cell lacks the modality."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The columns that are read; the first one must not be empty."""

    def item(self, row: Row, location: str, paths: Paths) -> Any | None:
        """The item of a row; ``None`` if its cell is empty.

        Args:
            row: of the table.
            location: the table and the line.
            paths: the paths that the table may name.

        Raises:
            ConfigError: a cell is invalid.
        """
        return None if is_empty(row.get(self.names()[0])) else self.read(row, location, paths)

    @abstractmethod
    def read(self, row: Row, location: str, paths: Paths) -> Any:
        """As :meth:`item`, for a row whose first cell is not empty."""

    def key(self, item: Any) -> str:
        """The path of a file, or a text; rows with the same key stay in one split."""
        return str(item.name)

    @abstractmethod
    def dataset(self, root: Path, items: Sequence[Any], *, training: bool, follow_links: bool) -> Dataset:
        """The dataset of some rows.

        Args:
            root: the folder that paths are relative to.
            items: from :meth:`item`.
            training: whether to augment.
            follow_links: read links that lead out of the folder.
        """


class ImageSource(ColumnSource):
    """Pictures, for towers of ``vision``."""

    type: Literal["image"]
    column: str
    """Column of the picture's path."""
    max_pixels: PositiveInt = MAX_PIXELS
    """Larger pictures are bad samples, rejected before they are decoded."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training pictures, in order."""

    def names(self) -> tuple[str, ...]:
        """The column of the path."""
        return (self.column,)

    def read(self, row: Row, location: str, paths: Paths) -> FileItem:
        """The picture's file."""
        return FileItem(paths.of(row, self.column, location))

    def dataset(self, root: Path, items: Sequence[FileItem], *, training: bool, follow_links: bool) -> ImageFiles:
        """The pictures."""
        transform = chain(self.augment) if training else None
        return ImageFiles(Home(root, follow_links), items, None, self.max_pixels, transform)


class SoundSource(ColumnSource, SpanColumns):
    """Sounds, or parts of them, for towers of ``audio``."""

    type: Literal["audio"]
    column: str
    """Column of the sound's path."""
    trim_db: PositiveFloat | None = None
    """Cut off both ends of a sound as far as they are so many decibels quieter than its loudest 10 ms."""
    augment: tuple[SoundAugmentation, ...] = ()
    """Transforms of training sounds, in order."""

    def names(self) -> tuple[str, ...]:
        """The columns of the path and of the part."""
        return (self.column, *self.span_columns())

    def read(self, row: Row, location: str, paths: Paths) -> Recording:
        """The sound's file, and the part of it."""
        offset, duration, _ = self.span(row, location, _seconds)
        return Recording(paths.of(row, self.column, location), None, offset, duration)

    def dataset(self, root: Path, items: Sequence[Recording], *, training: bool, follow_links: bool) -> Recordings:
        """The sounds."""
        transform = sound_chain(self.augment) if training else None
        return Recordings(Home(root, follow_links), items, None, transform, self.trim_db)


class FilmSource(ColumnSource, SpanColumns):
    """Videos, or parts of them, for towers of ``video``."""

    deprecated_keys: ClassVar[Mapping[str, str]] = {"begin_column": "offset_column"}

    type: Literal["video"]
    column: str
    """Column of the video's path."""
    sampling: Sampling = AllFrames()
    """Which frames are read: all at a rate, uniform, dense or keyframes."""
    side: PositiveInt | None = None
    """Frames whose shorter side has more pixels are scaled down to it as they are decoded."""
    max_pixels: PositiveInt = MAX_FRAME
    """Files of larger frames are bad samples."""
    square_pixels: bool = True
    """Resample the columns of frames whose pixels are not square, as players do."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training videos, in order; those of images, of all frames alike."""

    @model_validator(mode="after")
    def _one_window(self) -> FilmSource:
        if isinstance(self.sampling, DenseSampling) and self.sampling.windows > 1:
            raise ValueError("sampling.windows must be 1 here: what is fused has one window of a video")
        return self

    def names(self) -> tuple[str, ...]:
        """The columns of the path and of the part."""
        return (self.column, *self.span_columns())

    def read(self, row: Row, location: str, paths: Paths) -> Clip:
        """The video's file, and the part of it."""
        begin, _, end = self.span(row, location, _seconds)
        return Clip(paths.of(row, self.column, location), None, begin, end)

    def dataset(self, root: Path, items: Sequence[Clip], *, training: bool, follow_links: bool) -> Clips:
        """The videos."""
        reading = Reading(
            sampling=self.sampling,
            side=self.side,
            max_pixels=self.max_pixels,
            square_pixels=self.square_pixels,
        )
        transform = chain(self.augment) if training else None
        return Clips(Home(root, follow_links), items, None, reading, random=training, transform=transform)


class TextSource(ColumnSource):
    """Texts that stand in the table, for towers of ``text``."""

    type: Literal["text"]
    column: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Column of the text, or several, joined by line breaks; some of them may be empty. In JSONL a text may also be a
    list of equivalent texts: training takes one at random, the other splits the first."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a word of a training text is dropped; one always stays (Iyyer et al., 2015, "Deep unordered
    composition rivals syntactic methods for text classification")."""

    def names(self) -> tuple[str, ...]:
        """The columns."""
        return (self.column,) if isinstance(self.column, str) else self.column

    def item(self, row: Row, location: str, paths: Paths) -> tuple[tuple[str, ...], ...] | None:
        """The equivalent texts of each column that is not empty."""
        items = []
        for column in self.names():
            cell = row.get(column)
            if is_empty(cell):
                continue
            texts = cell if isinstance(cell, list) else [cell]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise ConfigError(f"{location}: {column} must be a text, or a list of texts, got {cell!r:.60}")
            items.append(tuple(texts))
        return tuple(items) or None

    def read(self, row: Row, location: str, paths: Paths) -> tuple[tuple[str, ...], ...] | None:
        """The texts."""
        return self.item(row, location, paths)

    def key(self, item: Sequence[Sequence[str]]) -> str:
        """The first of the texts."""
        return "\n".join(choices[0] for choices in item)

    def dataset(
        self, root: Path, items: Sequence[Sequence[Sequence[str]]], *, training: bool, follow_links: bool
    ) -> Texts:
        """The texts."""
        return Texts(items, self.word_dropout, training=training)


class Texts(Dataset):
    """Texts in memory.

    Args:
        items: for each text its parts, and for each part the equivalent texts.
        word_dropout: probability that a word is dropped in training.
        training: whether to take one of the equivalent texts at random instead of the first.
    """

    def __init__(self, items: Sequence[Sequence[Sequence[str]]], word_dropout: float = 0.0, *, training: bool) -> None:
        self.items, self.word_dropout, self.training = items, word_dropout, training

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """A text, its parts on lines of their own."""
        text = "\n".join(
            choices[int(torch.randint(len(choices), ()))] if self.training and len(choices) > 1 else choices[0]
            for choices in self.items[index]
        )
        return Sample(without_words(text, self.word_dropout) if self.training and self.word_dropout else text)


_WORD = re.compile(r"\w+")

AnySource = Annotated[ImageSource | SoundSource | FilmSource | TextSource, Field(discriminator="type")]


def without_words(text: str, dropout: float) -> str:
    """A text with random words dropped, by torch's generator; at least one word stays."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    drawn = torch.rand(len(words))
    keep_mask = drawn >= min(dropout, float(drawn.max()))
    dropped = [word.span() for word, keep in zip(words, keep_mask.tolist(), strict=True) if not keep]
    # The text between the dropped words lies between every second pair of edges.
    edges = [0, *(edge for span in dropped for edge in span), len(text)]
    return "".join(text[first:last] for first, last in zip(edges[::2], edges[1::2], strict=True))


def is_empty(cell: Any) -> bool:
    """Whether a cell is absent, null, NaN, blank or an empty list."""
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip()) or cell == []


def _seconds(row: Row, column: str | None, location: str) -> float | None:
    return None if column is None or is_empty(row.get(column)) else seconds_of(row, column, location)
