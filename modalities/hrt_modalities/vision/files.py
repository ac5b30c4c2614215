"""Datasets of image files: folders with a folder per class, and tables.

No name in a table or folder leads out of the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveInt

from hrt_mm.data.dataset import DatasetConfig
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.division import Division
from ..common.hugging_face import HuggingFaceRowsConfig
from ..common.media import FileDataset, FileItem, FileRowsConfig, FolderConfig, TableConfig, UnsplitConfig
from ..common.shards import ShardRowsConfig
from ..common.tables import Paths, Row
from .augment import BatchAugmentation, ImageMixing, Transform, chain, mixing_of, of_images, sized
from .images import MAX_PIXELS, SUFFIXES, image_shape, read_image
from .tokenizer import VisionConfig


class ImageFiles(FileDataset[FileItem]):
    """Images that are decoded on demand.

    Args:
        home: the folder that names start at.
        items: the files.
        classes: names of the classes, or ``None``.
        max_pixels: larger images are bad samples.
        transform: augmentation.
    """

    def __init__(
        self,
        home: Home,
        items: Sequence[FileItem],
        classes: tuple[str, ...] | None,
        max_pixels: int,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(home, items, classes)
        self.max_pixels, self.transform = max_pixels, transform

    def __getitem__(self, index: int) -> Sample:
        """A decoded image with the name of its class.

        Raises:
            BadSample: the file is missing, broken, truncated or too large, or lies outside the folder.
        """
        name = self.items[index].name
        image = read_image(self.home.path(name), name, self.max_pixels)
        if self.transform is not None:
            image = self.transform(image)
        return self.sample(index, image)

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W) from the header, before augmentation.

        Raises:
            BadSample: the file is missing, no image or too large, or lies outside the folder.
        """
        name = self.items[index].name
        return image_shape(self.home.path(name), name, self.max_pixels)


class FilesConfig(UnsplitConfig):
    """Settings of all datasets of image files."""

    what = "images"

    max_pixels: PositiveInt = MAX_PIXELS
    """Larger images are bad samples, rejected before they are decoded."""
    augment: tuple[BatchAugmentation, ...] = ()
    """Transforms of training images, in order; ``mixup`` and ``cutmix`` mix the images of a batch after all others,
    and one of them is chosen at random for each batch."""

    def mixing(self) -> ImageMixing | None:
        """What mixes the images of training batches."""
        return mixing_of(self.augment)

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    def dataset(
        self,
        split: str,
        root: Path,
        items: Mapping[str, Sequence[FileItem]] | Division[FileItem],
        *,
        texts: bool = False,
    ) -> ImageFiles:
        """The images of a split."""
        chosen, classes = self.items(split, root, items, texts=texts)
        transform = chain(of_images(self.augment)) if split == "train" else None
        return ImageFiles(Home(root, self.follow_links), chosen, classes, self.max_pixels, transform)


class ImageFolderConfig(FolderConfig, FilesConfig):
    """A folder in torchvision's layout: ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    file_suffixes = SUFFIXES
    item = FileItem

    type: Literal["image_folder"]


class ImageRowsConfig(FileRowsConfig, FilesConfig):
    """A table with one row per image."""

    label: Literal["class", "classes", "numbers"] = "class"
    """Kind of the label: a class; several classes; or numbers, of one column or several."""

    def item_of_row(self, row: Row, location: str, paths: Paths) -> FileItem:
        """The image of a row."""
        label = self.label_in(row, location)
        return FileItem(paths.of(row, self.path_column, location), label, self.group_of(row, location))


class ImageManifestConfig(TableConfig, ImageRowsConfig):
    """A table with one row per image: CSV or TSV with a header, JSONL, or Parquet, by the suffix of the file."""

    deprecated_types: ClassVar[Mapping[str, str]] = {"manifest": "image_manifest"}

    type: Literal["image_manifest"]


class ImageHuggingFaceConfig(HuggingFaceRowsConfig, ImageRowsConfig):
    """Images of Hugging Face ``datasets``."""

    type: Literal["hugging_face"]
    path_column: str = "image"
    """Column of the image."""


class ImageShardsConfig(ShardRowsConfig, ImageRowsConfig):
    """Images in shards."""

    type: Literal["webdataset"]
    path_column: str = "file"
    """Column of the image."""
