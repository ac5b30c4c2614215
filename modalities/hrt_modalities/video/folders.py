"""Videos in a folder with a folder a class, and videos or parts of them from a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from hrt_mm.core.errors import ConfigError, printable

from ..common.hugging_face import HuggingFaceRowsConfig
from ..common.media import FolderConfig, TableConfig, Target, TimedRowsConfig
from ..common.shards import ShardRowsConfig
from ..common.tables import Paths, Row, label_of, number_of
from .clips import Clip, ClipsConfig
from .readers import SUFFIXES


class VideoFolderConfig(FolderConfig, ClipsConfig):
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    file_suffixes = SUFFIXES
    item = Clip

    type: Literal["video_folder"]


class VideoRowsConfig(TimedRowsConfig, ClipsConfig):
    """A table with one row per video or part of a video."""

    column_keys = (*TimedRowsConfig.column_keys, "boundary_columns")

    label: Literal["class", "classes", "numbers", "text", "words"] = "class"
    """Kind of the label: a class; several classes; numbers, of one column or several; a text; or a text that is split
    into words."""
    boundary_columns: tuple[str, ...] = ()
    """Columns of boundaries, named after them, such as ``shots``: the seconds from the beginning of the file at which
    groups start, separated by spaces; in JSONL a list of numbers."""

    def item_of_row(self, row: Row, location: str, paths: Paths) -> Clip:
        """The video of a row, or the part of it."""
        begin, _, end = self.span(row, location)
        last = end if end is not None else float("inf")
        boundaries = {
            column: tuple(start - begin for start in _starts(row, column, location) if begin <= start < last)
            for column in self.boundary_columns
        }
        alignment = self.alignment_of(row, location, paths)
        path, group = paths.of(row, self.path_column, location), self.group_of(row, location)
        return Clip(path, self._target(row, location), begin, end, boundaries, alignment, group)

    def _target(self, row: Row, location: str) -> Target:
        if self.label_column is None or self.label in ("class", "classes", "numbers"):
            return self.label_in(row, location)
        (column,) = self.label_columns()
        value = row[column]
        if self.label == "words" and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(map(printable, value))
        label = label_of(row, column, location)
        return tuple(label.split()) if self.label == "words" and label is not None else label


class VideoManifestConfig(TableConfig, VideoRowsConfig):
    """A table with one row per video or part of a video: CSV or TSV with a header, JSONL, or Parquet, by its suffix."""

    deprecated_keys: ClassVar[Mapping[str, str]] = {"begin_column": "offset_column"}

    type: Literal["video_manifest"]


class VideoHuggingFaceConfig(HuggingFaceRowsConfig, VideoRowsConfig):
    """Videos of Hugging Face ``datasets``."""

    type: Literal["hugging_face"]
    path_column: str = "video"
    """Column of the video."""


class VideoShardsConfig(ShardRowsConfig, VideoRowsConfig):
    """Videos in shards."""

    type: Literal["webdataset"]
    path_column: str = "file"
    """Column of the video."""


def _starts(row: Row, column: str, location: str) -> list[float]:
    value: Any = row[column]
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ConfigError(f"{location}: {column} must be seconds with spaces between, or a list, got {value!r:.60}")
    return [number_of(part, column, location) for part in parts]
