"""Datasets of image files, and the one that is a folder with a folder a class.

Files are data: nothing that a name or a row says leads out of the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from hrt_mm.errors import ConfigError, printable
from hrt_mm.files import Home
from hrt_mm.modality import Dataset, DatasetConfig
from hrt_mm.sample import Sample

from ..folders import Layout, labelled_files
from ..splits import Part, by_hash, check_split, chosen
from .augment import Augmentation, Transform, chain
from .images import MAX_PIXELS, SUFFIXES, image_shape, read_image


@dataclass(frozen=True)
class Item:
    """A file of a split.

    Args:
        name: its path from the dataset's folder, with ``/``.
        label: its class, where it has one.
    """

    name: str
    label: str | None


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
        items: Sequence[Item],
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

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W) from the header, before augmentation.

        Raises:
            BadSample: the file is missing, no image or too large, or lies outside the folder.
        """
        item = self.items[index]
        return image_shape(self.home.path(item.name), item.name, self.max_pixels)


class FilesConfig(DatasetConfig):
    """What the datasets of files share."""

    val: Part = 0.1
    """Part of the images that becomes ``val`` where the data names none: by a hash of the file's name."""
    test: Part = 0.1
    """Part of the images that becomes ``test`` where the data has no splits at all: by a hash of the file's name."""
    max_pixels: PositiveInt = MAX_PIXELS
    """Larger images are bad samples, rejected before they are decoded."""
    follow_links: bool = False
    """Read links that lead out of the dataset's folder."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training images, in order."""

    @model_validator(mode="after")
    def _leaves_some(self) -> FilesConfig:
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val:g} and test {self.test:g} leave nothing to train on")
        return self

    def build_from(self, split: str, root: Path, found: Mapping[str, list[Item]], where: str) -> ImageFiles:
        """The dataset of a split, from the items of all splits; ``val`` is split off where it is missing.

        Raises:
            ConfigError: the split has no image, or a class that train has not.
        """
        items, classes = chosen(split, found, self.val, where, "images")
        transform = chain(self.augment) if split == "train" else None
        return ImageFiles(root, items, classes, self.max_pixels, self.follow_links, transform)

    def needless(self, key: str, reason: str) -> None:
        """Rejects a key that changes nothing. Its default is let pass: the resolved configuration of a run holds it.

        Raises:
            ConfigError: it was set to something else.
        """
        if getattr(self, key) != type(self).model_fields[key].default:
            raise ConfigError(f"data.{key} has no effect: {reason}; drop it")


class FolderConfig(FilesConfig):
    """A folder in torchvision's layout: ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by a hash of the names."""

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
        found = labelled_files(self.root, SUFFIXES, "images", layout=self.layout, follow_links=self.follow_links)
        splits = {name: [Item(*own) for own in files] for name, files in found.splits.items()}
        if not found.own:
            splits = by_hash(splits.get("train", []), self.val, self.test)
        else:
            self.needless("test", f"{self.root} has its own splits")
            if "val" in splits:
                self.needless("val", f"{self.root} has its own val")
        return self.build_from(split, self.root, splits, f"data.root {self.root}")
