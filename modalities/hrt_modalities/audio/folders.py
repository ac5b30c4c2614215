"""Sounds in a folder with a folder a class, and sounds from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.splits import Splits

from ..common.division import Division
from ..common.folders import Layout
from ..common.media import UnsplitConfig, traits_of
from ..common.splits import check_split
from ..common.tables import SPAN_KEYS, Paths, Row, SpanColumns, SplitColumn, label_of, read_rows, seconds_of
from .files import SUFFIXES
from .joined import JoinableConfig
from .recordings import Recording, Recordings, RecordingsConfig, Target


class AudioFolderConfig(UnsplitConfig, RecordingsConfig):
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    type: Literal["audio_folder"]
    root: Path
    """The folder."""
    layout: Layout = "auto"
    """What the folders in ``root`` are: ``splits`` (ROOT/SPLIT/CLASS/*), or ``classes`` (ROOT/CLASS/*); ``auto`` goes
    by their names, and refuses what could be both."""

    def build(self, split: str) -> Recordings:
        """The sounds of a split.

        Raises:
            ConfigError: the folder is missing or empty, or a class is not in train.
        """
        check_split(split)
        return self.dataset(split, self.root, self._division())

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root, self._division())

    def _division(self) -> Division[Recording]:
        return self.by_folders(self.root, SUFFIXES, Recording, self.layout)


class AudioManifestConfig(UnsplitConfig, JoinableConfig, SpanColumns):
    """A table with one row per sound or part of a sound: CSV or TSV with a header, or JSONL, by its suffix."""

    type: Literal["audio_manifest"]
    file: Path
    """The table. Its paths are relative to ``root`` and must stay inside it."""
    root: Path | None = None
    """Root of the paths in the table; the folder of the table when null. Absolute paths are allowed inside it, and all
    others are refused: the table is not trusted."""
    path_column: str = "path"
    """Column of the sound's path."""
    label_column: str | None = "label"
    """Column of the label; null for sounds without labels."""
    label: Literal["class", "text", "words", "characters"] = "class"
    """Kind of the label: a class, a text, or a text that is split into words or characters. In JSONL words may also be
    a list."""
    split_column: str | None = "split"
    """Column of the split: train, val or test, or other common names of these in any case (training, validation, dev,
    testing); null to split by class and seed."""
    alignment_column: str | None = None
    """Column of the path of an alignment (TextGrid, CTM, TSV, JSON, SRT or WebVTT). Each tier is a boundary by that
    name; times count from the beginning of the file."""

    @model_validator(mode="after")
    def _labelled(self) -> AudioManifestConfig:
        if self.label_column is None and self.label != "class":
            raise ValueError(f"label: {self.label} has no effect without label_column; set it")
        return self

    def build(self, split: str) -> Dataset:
        """The sounds of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing or is not what it should be, a
                path leads out of the folder, or a class is not in train; names the row.
        """
        check_split(split)
        home = self.root or self.file.parent
        sounds = self.dataset(split, home, self._division(), texts=self.label == "text")
        return self.strung(split, sounds, spaced=self.label == "characters")

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root or self.file.parent, self._division())

    def _division(self) -> Division[Recording]:
        keys = ("path_column", "label_column", "split_column", *SPAN_KEYS, "alignment_column")
        columns = [column for column in (getattr(self, key) for key in keys) if column is not None]
        recordings: dict[str, list[Recording]] = {}
        paths, sides = Paths(self.file, self.root), SplitColumn(self.split_column, str(self.file))
        named = ", ".join(f"data.{key}" for key in (*keys, "group", "folds"))
        columns += self.split_columns()
        for number, row in read_rows(self.file, columns, named, split_column=self.split_column):
            location = f"{self.file}:{number}"
            offset = seconds_of(row, self.offset_column, location) or 0.0
            duration, end = (seconds_of(row, column, location) for column in (self.duration_column, self.end_column))
            item = Recording(
                paths.of(row, self.path_column, location),
                self._target(row, location),
                offset,
                duration if end is None else end - offset,
                alignment=paths.of(row, self.alignment_column, location) if self.alignment_column else None,
                group=self.group_of(row, location),
            )
            recordings.setdefault(self.side_of(row, location, sides), []).append(item)
        traits = traits_of(texts=self.label == "text")
        return self.divide(recordings, traits, made_by=self.by_column(), where=f"data.file {self.file}")

    def _target(self, row: Row, location: str) -> Target:
        if self.label_column is None:
            return None
        value = row[self.label_column]
        if self.label == "class":
            return label_of(row, self.label_column, location)
        if self.label == "words" and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(map(printable, value))
        if not isinstance(value, str):
            raise ConfigError(f"{location}: {self.label_column} must be a text, got {value!r:.60}")
        return as_target(printable(value), self.label)


def as_target(text: str, label: str) -> Target:
    """A text as a whole, or split into words or characters."""
    if label == "words":
        return tuple(text.split())
    return tuple(" ".join(text.split())) if label == "characters" else text
