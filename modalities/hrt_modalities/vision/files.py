"""Datasets of image files, and the one that is a folder with a folder a class.

Files are data: nothing that a name or a row says leads out of the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from hrt_mm.core.errors import printable
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Splits
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.division import Division, Traits, file_member
from ..common.folders import Layout, labelled_files
from ..common.splits import check_split
from ..common.splitting import SplitConfig
from .augment import Augmentation, Transform, chain, sized
from .images import MAX_PIXELS, SUFFIXES, image_shape, read_image
from .tokenizer import VisionConfig


@dataclass(frozen=True)
class ImageItem:
    """A file of a split.

    Args:
        name: its path from the dataset's folder, with ``/``.
        label: its class, where it has one.
        group: what it must not be separated from.
    """

    name: str
    label: str | None
    group: str | None = None


class ImageFiles(Dataset):
    """Images that are decoded when they are asked for.

    Args:
        root: the folder that names start at.
        items: the files.
        classes: names of the classes, or ``None``.
        max_pixels: larger images are bad samples.
        follow_links: read links that lead out of ``root``.
        transform: augmentation.
    """

    def __init__(
        self,
        root: Path,
        items: Sequence[ImageItem],
        classes: tuple[str, ...] | None,
        max_pixels: int,
        follow_links: bool,
        transform: Transform | None = None,
    ) -> None:
        self.root, self.items, self.max_pixels, self.follow_links = root, items, max_pixels, follow_links
        self.home = Home(root, follow_links)
        self.classes: tuple[str, ...] | None = classes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """A decoded image with the name of its class.

        Raises:
            BadSample: the file is missing, broken, truncated or too large, or lies outside the folder.
        """
        item = self.items[index]
        image = read_image(self.home.path(item.name), item.name, self.max_pixels)
        if self.transform is not None:
            image = self.transform(image)
        return Sample(image, item.label, item.name)

    def name(self, index: int) -> str:
        """The file's path from the dataset's folder."""
        return printable(self.items[index].name)

    def class_of(self, index: int) -> str | None:
        """The image's class."""
        return self.items[index].label

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W) from the header, before augmentation.

        Raises:
            BadSample: the file is missing, no image or too large, or lies outside the folder.
        """
        item = self.items[index]
        return image_shape(self.home.path(item.name), item.name, self.max_pixels)


class FilesConfig(SplitConfig):
    """What the datasets of files share."""

    what = "images"

    max_pixels: PositiveInt = MAX_PIXELS
    """Larger images are bad samples, rejected before they are decoded."""
    follow_links: bool = False
    """Read links that lead out of the dataset's folder."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training images, in order."""

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration with crops of the modality's size, where theirs is left open."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    def build_from(self, split: str, root: Path, division: Division[ImageItem]) -> ImageFiles:
        """The dataset of a split.

        Raises:
            ConfigError: the split has no image, or a class that train has not.
        """
        items = division.pick(split, self.what)
        labels = {item.label for item in division.splits["train"]}
        classes = tuple(sorted(label for label in labels if label is not None)) if None not in labels else None
        transform = chain(self.augment) if split == "train" else None
        return ImageFiles(root, items, classes, self.max_pixels, self.follow_links, transform)

    def listed_from(self, root: Path, division: Division[ImageItem]) -> Splits:
        """What is in each split."""
        return division.listed(
            lambda item, traits: file_member(root, item.name, traits), None if self.follow_links else root
        )


def traits_of(item: ImageItem) -> Traits:
    """What decides on which side an image goes."""
    return Traits(item.name, item.label, item.group)


class ImageFolderConfig(FilesConfig):
    """A folder in torchvision's layout: ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    type: Literal["image_folder"]
    root: Path
    """The folder."""
    layout: Layout = "auto"
    """What the folders in ``root`` are: ``splits`` (ROOT/SPLIT/CLASS/*), or ``classes`` (ROOT/CLASS/*); ``auto`` goes
    by their names, and refuses what could be both."""

    def build(self, split: str) -> ImageFiles:
        """The images of a split.

        Raises:
            ConfigError: the folder is missing or empty, a class has no image, a class is not in train, or folders could
                be splits as well as classes.
        """
        check_split(split)
        return self.build_from(split, self.root, self._division())

    def splits(self) -> Splits:
        """What is in each split."""
        return self.listed_from(self.root, self._division())

    def _division(self) -> Division[ImageItem]:
        labelled = labelled_files(self.root, SUFFIXES, "images", layout=self.layout, follow_links=self.follow_links)
        splits = {name: [ImageItem(*file) for file in files] for name, files in labelled.splits.items()}
        made_by = f"by the folders of {self.root}" if labelled.own else None
        return self.divide(splits, traits_of, made_by=made_by, where=f"data.root {self.root}")
