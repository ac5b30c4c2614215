"""A dataset of image files from a table: CSV, TSV or JSONL with the path, label and split of each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from hrt_mm.data.splits import Splits

from ..common.division import Division
from ..common.splits import check_split
from ..common.tables import Paths, SplitColumn, label_of, read_rows
from .files import FilesConfig, ImageFiles, ImageItem, traits_of

_KEYS = "data.path_column, data.label_column, data.split_column, data.group and data.folds"


class ImageManifestConfig(FilesConfig):
    """A table with one row per image: CSV or TSV with a header, or JSONL, by the suffix of the file."""

    deprecated_types: ClassVar[Mapping[str, str]] = {"manifest": "image_manifest"}

    type: Literal["image_manifest"]
    file: Path
    """The table. Its paths are relative to ``root`` and must stay inside it."""
    root: Path | None = None
    """Root of the paths in the table; the folder of the table when null. Absolute paths are allowed inside it, and all
    others are refused: the table is not trusted."""
    path_column: str = "path"
    """Column of the image's path."""
    label_column: str | None = "label"
    """Column of the class; null for images without labels."""
    split_column: str | None = "split"
    """Column of the split: train, val or test, or other common names of these in any case (training, validation, dev,
    testing); null to split by class and seed."""

    def build(self, split: str) -> ImageFiles:
        """The images of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing, a path leads out of the
                folder, or a class is not in train; names the row.
        """
        check_split(split)
        return self.build_from(split, self.root or self.file.parent, self._division())

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root or self.file.parent, self._division())

    def _division(self) -> Division[ImageItem]:
        where = f"manifest {self.file}"
        items: dict[str, list[ImageItem]] = {}
        columns = [name for name in (self.path_column, self.label_column, self.split_column) if name is not None]
        paths, sides = Paths(self.file, self.root), SplitColumn(self.split_column, where)
        for number, row in read_rows(
            self.file, [*columns, *self.split_columns()], _KEYS, split_column=self.split_column
        ):
            location = f"{self.file}:{number}"
            label = label_of(row, self.label_column, location)
            item = ImageItem(paths.of(row, self.path_column, location), label, self.group_of(row, location))
            items.setdefault(self.side_of(row, location, sides), []).append(item)
        return self.divide(items, traits_of, made_by=self.by_column(), where=where)
