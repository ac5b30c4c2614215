"""A dataset of image files from a table: CSV, TSV or JSONL with the path, label and split of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from ..common.media import FileItem, ManifestConfig
from ..common.tables import Paths, Row, label_of
from .files import FilesConfig


class ImageManifestConfig(ManifestConfig, FilesConfig):
    """A table with one row per image: CSV or TSV with a header, or JSONL, by the suffix of the file."""

    deprecated_types: ClassVar[Mapping[str, str]] = {"manifest": "image_manifest"}

    type: Literal["image_manifest"]

    def item_of_row(self, row: Row, location: str, paths: Paths) -> FileItem:
        """The image of a row."""
        label = label_of(row, self.label_column, location)
        return FileItem(paths.of(row, self.path_column, location), label, self.group_of(row, location))
