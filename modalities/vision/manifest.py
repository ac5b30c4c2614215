"""A dataset of image files from a table: CSV, TSV or JSONL with a path, a label and a split a row."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from hrt_mm.errors import ConfigError

from ..splits import check_split
from .files import SPLIT_NAMES, FilesConfig, ImageFiles, Item


class ManifestConfig(FilesConfig):
    """A table with a row an image: CSV, TSV (both with a header) or JSONL, told apart by the file's name."""

    type: Literal["manifest"]
    file: Path
    """The table. Paths in it start at its folder, and stay inside."""
    path_column: str = "path"
    """Column of the image's path."""
    label_column: str | None = "label"
    """Column of the class; null for images without labels."""
    split_column: str | None = "split"
    """Column of the split: train, val (or valid, validation) or test; null to split by a hash of the paths."""

    def build(self, split: str) -> ImageFiles:
        """The images of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing, a path leads out of the
                folder, or a class is not in train; names the row.
        """
        check_split(split)
        where = f"manifest {self.file}"
        splits: dict[str, list[Item]] = {}
        for number, row in self._rows():
            place = f"{self.file}:{number}"
            item = Item(self._path(row, place), self._label(row, place))
            splits.setdefault(self._split(row, place), []).append(item)
        if not splits:
            raise ConfigError(f"{where} has no rows")
        if self.split_column is None:
            splits = self.by_hash(splits["train"])
        else:
            self.needless("test", f"{self.file} has the column {self.split_column!r}")
            if "val" in splits:
                self.needless("val", f"{self.file} has rows of split val")
        return self.build_from(split, self.file.parent, splits, where)

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        readers = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl}
        if self.file.suffix.lower() not in readers:
            raise ConfigError(f"data.file {self.file} must end in {', '.join(readers)}")
        if not self.file.is_file():
            raise ConfigError(f"data.file {self.file}: no such file")
        columns = [self.path_column, *(name for name in (self.label_column, self.split_column) if name is not None)]
        for number, row in readers[self.file.suffix.lower()](self.file):
            missing = [column for column in columns if row.get(column) is None]
            if missing:
                have = ", ".join(str(key) for key in row if key is not None)
                raise ConfigError(
                    f"{self.file}:{number} has no column {missing[0]!r}; it has {have}. Set data.path_column, "
                    "data.label_column and data.split_column"
                )
            yield number, row

    def _path(self, row: Mapping[str, Any], place: str) -> str:
        name = row[self.path_column]
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigError(f"{place}: {self.path_column} must be a path, got {name!r}")
        path = PurePosixPath(name.replace("\\", "/") if os.name == "nt" else name)
        if path.is_absolute() or ".." in path.parts or Path(name).drive:
            raise ConfigError(f"{place}: path {name!r} leads out of the manifest's folder; paths start there")
        return path.as_posix()

    def _label(self, row: Mapping[str, Any], place: str) -> str | None:
        if self.label_column is None:
            return None
        label = row[self.label_column]
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise ConfigError(f"{place}: {self.label_column} must be a name or a whole number, got {label!r}")
        return str(label)

    def _split(self, row: Mapping[str, Any], place: str) -> str:
        if self.split_column is None:
            return "train"
        split = row[self.split_column]
        if not isinstance(split, str) or split not in SPLIT_NAMES:
            raise ConfigError(f"{place}: {self.split_column} must be train, val or test, got {split!r}")
        return SPLIT_NAMES[split]


def _read_csv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return _read_table(file, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return _read_table(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(file: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ConfigError(f"{file}:{reader.line_num} has more columns than the header")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}:{reader.line_num + 1} cannot be read: {error}") from error


def _read_jsonl(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{file}:{number} must be an object, got {type(row).__name__}")
            yield number, row
