"""A dataset of image files from a table: CSV, TSV or JSONL with a path, a label and a split a row."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..splits import by_hash, check_split
from ..tables import Paths, SplitColumn, label_of, read_rows
from .files import FilesConfig, ImageFiles, Item

_KEYS = "data.path_column, data.label_column and data.split_column"


class ManifestConfig(FilesConfig):
    """A table with a row an image: CSV, TSV (both with a header) or JSONL, told apart by the file's name."""

    type: Literal["manifest"]
    file: Path
    """The table. Paths in it start at ``root``, and stay inside."""
    root: Path | None = None
    """The folder that paths in the table start at; the table's own folder when null. Paths may be absolute where they
    lie inside it, and all others are refused: the table is not trusted."""
    path_column: str = "path"
    """Column of the image's path."""
    label_column: str | None = "label"
    """Column of the class; null for images without labels."""
    split_column: str | None = "split"
    """Column of the split: train, val or test, or other usual names of these in any case (training, validation, dev,
    testing); null to split by a hash of the paths."""

    def build(self, split: str) -> ImageFiles:
        """The images of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing, a path leads out of the
                folder, or a class is not in train; names the row.
        """
        check_split(split)
        where = f"manifest {self.file}"
        splits: dict[str, list[Item]] = {}
        columns = [name for name in (self.path_column, self.label_column, self.split_column) if name is not None]
        paths, sides = Paths(self.file, self.root), SplitColumn(self.split_column, where)
        for number, row in read_rows(self.file, columns, _KEYS):
            place = f"{self.file}:{number}"
            item = Item(paths.of(row, self.path_column, place), label_of(row, self.label_column, place))
            splits.setdefault(sides.of(row, place), []).append(item)
        if self.split_column is None:
            splits = by_hash(splits["train"], self.val, self.test)
        else:
            self.needless("test", f"{self.file} has the column {self.split_column!r}")
            if "val" in splits:
                self.needless("val", f"{self.file} has rows of split val")
        return self.build_from(split, paths.root, splits, where)
