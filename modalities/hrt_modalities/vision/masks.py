"""Images with masks, in two folders with files of the same names, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import Home, check_regular, shown
from hrt_mm.data.folders import walk
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Splits, split_name
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.division import Division
from ..common.folders import need_root
from ..common.media import FileDataset, FileItem, UnsplitConfig, traits_of
from ..common.splits import check_split
from .augment import PairedAugmentation, PairTransform, paired_chain, sized
from .images import MAX_PIXELS, SUFFIXES, image_shape, read_image
from .tokenizer import VisionConfig

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Formats of masks: those that keep values."""


class ImageMasksConfig(UnsplitConfig):
    """Images with masks: ``images/NAME.jpg`` and ``masks/NAME.png`` in ``root``, or in folders of splits in it."""

    what = "images"

    type: Literal["image_masks"]
    root: Path
    """The folder: ROOT/images/* and ROOT/masks/*, or ROOT/SPLIT/images/* and ROOT/SPLIT/masks/*."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of the values of masks, from 0."""
    images: str = "images"
    """Name of the folders of images."""
    masks: str = "masks"
    """Name of the folders of masks: grey or palette images without loss, of the size of their image."""
    max_pixels: PositiveInt = MAX_PIXELS
    """Larger images are bad samples, rejected before they are decoded."""
    augment: tuple[PairedAugmentation, ...] = ()
    """Transforms of training images and their masks, in order."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """Value that augmentation gives to pixels outside of a mask; ``task.ignore``."""

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    def build(self, split: str) -> Dataset:
        """The images of a split.

        Raises:
            ConfigError: the folder is missing or empty, an image has no mask, or the split is empty.
        """
        return self._build(split, augment=split == "train")

    def plain(self, split: str) -> Dataset:
        """The images of a split without augmentation."""
        return self._build(split, augment=False)

    def splits(self) -> Splits:
        """The content of each split."""
        return self.listed_from(self.root, self._division()[0])

    def _build(self, split: str, *, augment: bool) -> ImageMasks:
        check_split(split)
        division, masks = self._division()
        items = division.pick(split, self.what)
        transform = paired_chain(self.augment, self.ignore) if augment else None
        return ImageMasks(Home(self.root, self.follow_links), items, masks, self, transform)

    def _division(self) -> tuple[Division[FileItem], dict[str, str]]:
        """The images by split, and the mask of each."""
        need_root(self.root)
        where = f"data.root {self.root}"
        listing = walk(self.root, SUFFIXES, follow_links=self.follow_links)
        masks: dict[tuple[str, str], str] = {}
        images: list[tuple[str, str, str]] = []
        for name in listing.files:
            parts = name.split("/")
            for depth in (0, 1):
                if len(parts) > depth + 1 and parts[depth] in (self.images, self.masks):
                    side, rest = "/".join(parts[:depth]), "/".join(parts[depth + 1 :])
                    stem = rest.rpartition(".")[0]
                    if parts[depth] == self.masks:
                        if Path(name).suffix.lower() not in MASK_SUFFIXES:
                            raise ConfigError(
                                f"{where}: the mask {shown(name)} loses values in its format; save it as PNG"
                            )
                        masks[side, stem] = name
                    else:
                        images.append((side, stem, name))
                    break
        if not images:
            raise ConfigError(f"{where} has no images in {self.images}/, nor in a folder of a split in it")
        if without := [name for side, stem, name in images if (side, stem) not in masks]:
            more = f", nor have {len(without) - 1} others" if len(without) > 1 else ""
            expected = without[0].replace(f"{self.images}/", f"{self.masks}/", 1)
            raise ConfigError(
                f"{where}: {shown(without[0])} has no mask {shown(Path(expected).with_suffix('.png').as_posix())}{more}"
            )
        by_split: dict[str, list[FileItem]] = {}
        for side, _, name in images:
            split = "train" if not side else split_name(side)
            if split is None:
                raise ConfigError(f"{where}: {shown(side)}/ is no split; name it train, val or test")
            by_split.setdefault(split, []).append(FileItem(name))
        made_by = f"by the folders of {self.root}" if any(side for side, _, _ in images) else None
        division = self.divide(by_split, traits_of(), made_by=made_by, where=where)
        return division, {name: masks[side, stem] for side, stem, name in images}


class ImageMasks(FileDataset[FileItem]):
    """Images and masks that are decoded on demand.

    Args:
        home: the folder that names start at.
        items: the images.
        masks: the mask of each image, by their names.
        config: of the dataset.
        transform: augmentation of an image with its mask.
    """

    def __init__(
        self,
        home: Home,
        items: Sequence[FileItem],
        masks: Mapping[str, str],
        config: ImageMasksConfig,
        transform: PairTransform | None,
    ) -> None:
        super().__init__(home, items, config.classes)
        self.masks, self.max_pixels, self.transform = masks, config.max_pixels, transform

    def __getitem__(self, index: int) -> Sample:
        """An image with its mask.

        Raises:
            BadSample: one of the files is missing or broken, or they are of different sizes.
        """
        name = self.items[index].name
        image = read_image(self.home.path(name), name, self.max_pixels)
        mask = self.label_of(index)
        if image.shape[1:] != mask.shape:
            raise BadSample(
                name,
                f"its mask {shown(self.masks[name])} has {mask.shape[1]}x{mask.shape[0]} pixels, and the image "
                f"{image.shape[2]}x{image.shape[1]}; a mask must have the size of its image",
            )
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return Sample(image, mask, name)

    def label_of(self, index: int) -> Any:
        """(H, W) uint8 mask.

        Raises:
            BadSample: the file is missing or broken, or has colours without a palette.
        """
        name = self.masks[self.items[index].name]
        return read_mask(self.home.path(name), name, self.max_pixels)

    def contents(self, index: int) -> Mapping[str, Path | str]:
        """Masks have no place in shards.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("images with masks are not packed: shards have no masks")

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W) from the header, before augmentation."""
        name = self.items[index].name
        return image_shape(self.home.path(name), name, self.max_pixels)


def read_mask(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """(H, W) uint8: the values of a grey image, or the indices of one with a palette.

    Args:
        path: the file.
        name: of the sample, for messages.
        max_pixels: larger images are rejected before they are decoded.

    Raises:
        BadSample: the file is missing or broken, is too large, or has colours without a palette.
    """
    # Checks format and size before anything is decoded.
    image_shape(path, name, max_pixels)
    with needs_extra("vision"):
        from PIL import Image

    try:
        check_regular(path, name)
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P"):
                raise BadSample(
                    name, f"is a mask in mode {image.mode}; save it grey or with a palette, a value for each class"
                )
            return torch.from_numpy(np.array(image).astype(np.uint8))
    except BadSample:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions
        raise BadSample(name, f"cannot be decoded: {error or type(error).__name__}") from error
