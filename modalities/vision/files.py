"""Datasets of image files, and the one that is a folder with a folder a class.

Files are data: nothing that a name or a row says leads out of the dataset's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from hrt_mm.errors import BadSample, ConfigError
from hrt_mm.modality import Dataset, DatasetConfig
from hrt_mm.sample import Sample

from ..splits import SPLIT_NAMES, Part, by_hash, check_split, chosen
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
        self.classes: tuple[str, ...] | None = classes
        self.transform = transform
        self._resolved = root.resolve()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """A decoded image with the name of its class.

        Raises:
            BadSample: the file is missing, broken, truncated or too large, or lies outside the folder.
        """
        item = self.items[index]
        image = read_image(self._path(item.name), item.name, self.max_pixels)
        if self.transform is not None:
            image = self.transform(image)
        return Sample(image, item.label, item.name)

    def name(self, index: int) -> str:
        """The file's path from the dataset's folder."""
        return self.items[index].name

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W) from the header, before augmentation.

        Raises:
            BadSample: the file is missing, no image or too large, or lies outside the folder.
        """
        item = self.items[index]
        return image_shape(self._path(item.name), item.name, self.max_pixels)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not self.follow_links and not path.resolve().is_relative_to(self._resolved):
            raise BadSample(name, f"a link leads out of {self.root}; set data.follow_links: true where you trust it")
        return path


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

    def build(self, split: str) -> ImageFiles:
        """The images of a split.

        Raises:
            ConfigError: the folder is missing or empty, a class has no image, or a class is not in train.
        """
        check_split(split)
        if not self.root.is_dir():
            raise ConfigError(f"data.root {self.root} is not a folder")
        folders = {path.name: path for path in sorted(self.root.iterdir()) if path.is_dir()}
        if not folders:
            raise ConfigError(f"data.root {self.root} has no folders in it; expected SPLIT/CLASS/* or CLASS/*")
        if "train" in folders:
            return self.build_from(split, self.root, self._with_splits(folders), f"data.root {self.root}")
        items = self._classes(folders)
        return self.build_from(split, self.root, by_hash(items, self.val, self.test), f"data.root {self.root}")

    def _with_splits(self, folders: Mapping[str, Path]) -> dict[str, list[Item]]:
        unknown = sorted(set(folders) - set(SPLIT_NAMES))
        if unknown:
            raise ConfigError(
                f"data.root {self.root} has train/ and also {unknown[0]}/; expected train/, val/ and test/ alone"
            )
        self.needless("test", f"{self.root} has its own splits")
        splits: dict[str, list[Item]] = {}
        for name, folder in folders.items():
            inside = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
            if not inside:
                raise ConfigError(f"{folder} has no folders in it; expected a folder a class")
            splits.setdefault(SPLIT_NAMES[name], []).extend(self._classes(inside))
        if "val" in splits:
            self.needless("val", f"{self.root} has its own val")
        return splits

    def _classes(self, folders: Mapping[str, Path]) -> list[Item]:
        items = []
        for label, folder in folders.items():
            names = list(self._images(folder))
            if not names:
                raise ConfigError(f"{folder} has no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
            items += [Item(name, label) for name in names]
        return items

    def _images(self, folder: Path) -> Iterator[str]:
        for parent, folders, files in os.walk(folder, followlinks=self.follow_links):
            folders.sort()
            for file in sorted(files):
                path = Path(parent, file)
                if path.suffix.lower() in SUFFIXES:
                    yield path.relative_to(self.root).as_posix()
