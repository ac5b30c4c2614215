"""Sounds in a folder with a folder a class, and sounds from a table."""

from __future__ import annotations

from typing import Literal

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.dataset import Dataset

from ..common.hugging_face import HuggingFaceRowsConfig
from ..common.media import FolderConfig, TableConfig, TimedRowsConfig
from ..common.shards import ShardRowsConfig
from ..common.tables import Paths, Row
from .files import SUFFIXES
from .joined import JoinableConfig
from .recordings import Recording, Recordings, RecordingsConfig, Target


class AudioFolderConfig(FolderConfig, RecordingsConfig):
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    file_suffixes = SUFFIXES
    item = Recording

    type: Literal["audio_folder"]


class AudioRowsConfig(TimedRowsConfig, JoinableConfig):
    """A table with one row per sound or part of a sound."""

    label: Literal["class", "classes", "numbers", "text", "words", "characters"] = "class"
    """Kind of the label: a class; several classes; numbers, of one column or several; a text; or a text that is split
    into words or characters. In JSONL words may also be a list."""

    def build(self, split: str) -> Dataset:
        """The sounds of a split."""
        sounds = super().build(split)
        assert isinstance(sounds, Recordings)
        return self.concatenated(split, sounds, spaced=self.label == "characters")

    def item_of_row(self, row: Row, location: str, paths: Paths) -> Recording:
        """The sound of a row, or the part of it."""
        path = paths.of(row, self.path_column, location)
        target = self._target(row, location)
        offset, duration, _ = self.span(row, location)
        alignment, group = self.alignment_of(row, location, paths), self.group_of(row, location)
        return Recording(path, target, offset, duration, alignment=alignment, group=group)

    def _target(self, row: Row, location: str) -> Target:
        if self.label_column is None or self.label in ("class", "classes", "numbers"):
            return self.label_in(row, location)
        (column,) = self.label_columns()
        value = row[column]
        if self.label == "words" and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(map(printable, value))
        if not isinstance(value, str):
            raise ConfigError(f"{location}: {column} must be a text, got {value!r:.60}")
        return as_target(printable(value), self.label)


class AudioManifestConfig(TableConfig, AudioRowsConfig):
    """A table with one row per sound or part of a sound: CSV or TSV with a header, JSONL, or Parquet, by its suffix."""

    type: Literal["audio_manifest"]


class AudioHuggingFaceConfig(HuggingFaceRowsConfig, AudioRowsConfig):
    """Sounds of Hugging Face ``datasets``."""

    type: Literal["hugging_face"]
    path_column: str = "audio"
    """Column of the sound."""


class AudioShardsConfig(ShardRowsConfig, AudioRowsConfig):
    """Sounds in shards."""

    type: Literal["webdataset"]
    path_column: str = "file"
    """Column of the sound."""


def as_target(text: str, label: str) -> Target:
    """A text as a whole, or split into words or characters."""
    if label == "words":
        return tuple(text.split())
    return tuple(" ".join(text.split())) if label == "characters" else text
