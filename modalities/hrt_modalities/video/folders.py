"""Videos in a folder with a folder a class, and videos or parts of them from a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.splits import Splits

from ..common.division import Division
from ..common.folders import Layout
from ..common.media import Target, UnsplitConfig, traits_of
from ..common.splits import check_split
from ..common.tables import SPAN_KEYS, Paths, Row, SpanColumns, SplitColumn, label_of, number_of, read_rows, seconds_of
from .clips import Clip, Clips, ClipsConfig
from .readers import SUFFIXES


class VideoFolderConfig(UnsplitConfig, ClipsConfig):
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    type: Literal["video_folder"]
    root: Path
    """The folder."""
    layout: Layout = "auto"
    """What the folders in ``root`` are: ``splits`` (ROOT/SPLIT/CLASS/*), or ``classes`` (ROOT/CLASS/*); ``auto`` goes
    by their names, and refuses what could be both."""

    def build(self, split: str) -> Clips:
        """The videos of a split.

        Raises:
            ConfigError: the folder is missing or empty, or a class is not in train.
        """
        check_split(split)
        return self.dataset(split, self.root, self._division())

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root, self._division())

    def _division(self) -> Division[Clip]:
        return self.by_folders(self.root, SUFFIXES, Clip, self.layout)


class VideoManifestConfig(UnsplitConfig, ClipsConfig, SpanColumns):
    """A table with one row per video or part of a video: CSV or TSV with a header, or JSONL, by its suffix."""

    deprecated_keys: ClassVar[Mapping[str, str]] = {"begin_column": "offset_column"}
    is_union_member: ClassVar[bool] = True

    type: Literal["video_manifest"]
    file: Path
    """The table. Its paths are relative to ``root`` and must stay inside it."""
    root: Path | None = None
    """Root of the paths in the table; the folder of the table when null. Absolute paths are allowed inside it, and all
    others are refused: the table is not trusted."""
    path_column: str = "path"
    """Column of the video's path."""
    label_column: str | None = "label"
    """Column of the label; null for videos without labels."""
    label: Literal["class", "text", "words"] = "class"
    """Kind of the label: a class, a text, or a text that is split into words."""
    split_column: str | None = "split"
    """Column of the split: train, val or test, or other common names of these in any case (training, validation, dev,
    testing); null to split by class and seed."""
    alignment_column: str | None = None
    """Column of the path of an alignment (TextGrid, CTM, TSV, JSON, SRT or WebVTT). Each tier is a boundary by that
    name; times count from the beginning of the file."""
    boundary_columns: tuple[str, ...] = ()
    """Columns of boundaries, named after them, such as ``shots``: the seconds from the beginning of the file at which
    groups start, separated by spaces; in JSONL a list of numbers."""

    @model_validator(mode="after")
    def _labelled(self) -> VideoManifestConfig:
        if self.label_column is None and self.label != "class":
            raise ValueError(f"label: {self.label} has no effect without label_column; set it")
        return self

    def build(self, split: str) -> Clips:
        """The videos of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing or is not what it should be, a
                path leads out of the folder, or a class is not in train; names the row.
        """
        check_split(split)
        return self.dataset(split, self.root or self.file.parent, self._division(), texts=self.label == "text")

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root or self.file.parent, self._division())

    def _division(self) -> Division[Clip]:
        keys = ("path_column", "label_column", "split_column", *SPAN_KEYS, "alignment_column")
        columns = [column for column in (getattr(self, key) for key in keys) if column is not None]
        clips: dict[str, list[Clip]] = {}
        named = ", ".join(f"data.{key}" for key in (*keys, "boundary_columns", "group", "folds"))
        paths, sides = Paths(self.file, self.root), SplitColumn(self.split_column, str(self.file))
        columns += [*self.boundary_columns, *self.split_columns()]
        for number, row in read_rows(self.file, columns, named, split_column=self.split_column):
            location = f"{self.file}:{number}"
            item = self._item(row, location, paths)
            clips.setdefault(self.side_of(row, location, sides), []).append(item)
        traits = traits_of(texts=self.label == "text")
        return self.divide(clips, traits, made_by=self.by_column(), where=f"data.file {self.file}")

    def _item(self, row: Row, location: str, paths: Paths) -> Clip:
        begin = seconds_of(row, self.offset_column, location) or 0.0
        duration, end = (seconds_of(row, column, location) for column in (self.duration_column, self.end_column))
        if duration is not None:
            end = begin + duration
        last = end if end is not None else float("inf")
        boundaries = {
            column: tuple(start - begin for start in _starts(row, column, location) if begin <= start < last)
            for column in self.boundary_columns
        }
        alignment = paths.of(row, self.alignment_column, location) if self.alignment_column else None
        path, group = paths.of(row, self.path_column, location), self.group_of(row, location)
        return Clip(path, self._target(row, location), begin, end, boundaries, alignment, group)

    def _target(self, row: Row, location: str) -> Target:
        if self.label_column is None:
            return None
        value = row[self.label_column]
        if self.label == "words" and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(map(printable, value))
        label = label_of(row, self.label_column, location)
        return tuple(label.split()) if self.label == "words" and label is not None else label


def _starts(row: Row, column: str, location: str) -> list[float]:
    value: Any = row[column]
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ConfigError(f"{location}: {column} must be seconds with spaces between, or a list, got {value!r:.60}")
    return [number_of(part, column, location) for part in parts]
