"""Generated pictures of shapes with exact masks, for semantic segmentation.

Coloured shapes of random places, sizes, rotations and shading lie on a grey background with noise, and cover each
other; what a shape is follows from its outline alone. A picture depends on the seed, the split and its index.

Shapes: S rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.splits import check_split
from .augment import PairedAugmentation, PairTransform, paired_chain, sized
from .tokenizer import VisionConfig

CLASSES = ("background", "disc", "square", "triangle", "cross", "ring")
_SPLITS = {"train": 0, "val": 1, "test": 2}
_CONTRAST = 0.25
"""Least difference of a shape from what it covers: the mean over its pixels in one of the colours, in 0..1."""
Points = np.ndarray


def _triangle(x: Points, y: Points) -> Points:
    # Equilateral, on the circle of radius 1.
    root = 3**0.5
    inside: Points = (y > -0.5) & (root * x + y < 1) & (-root * x + y < 1)
    return inside


_INSIDE: tuple[Callable[[Points, Points], Points], ...] = (
    lambda x, y: x * x + y * y < 0.72,
    lambda x, y: np.maximum(abs(x), abs(y)) < 0.72,
    _triangle,
    lambda x, y: (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.9),
    lambda x, y: (x * x + y * y < 0.8) & (x * x + y * y > 0.25),
)
"""By shape, whether points of its unit square lie in it."""


class ShapesConfig(DatasetConfig):
    """Generated pictures of discs, squares, triangles, crosses and rings, with a mask each."""

    type: Literal["shapes"]
    size: PositiveInt = 64
    """Rows and columns in pixels."""
    samples: PositiveInt = 4000
    """Pictures to train on."""
    held_out: PositiveInt = 400
    """Pictures of ``val``, and of ``test``."""
    most: PositiveInt = 4
    """Most shapes in a picture; it has at least one."""
    noise: float = 0.08
    """Deviation of the noise of pixels, in 0..1."""
    seed: int = 0
    """Fixes the pictures."""
    augment: tuple[PairedAugmentation, ...] = ()
    """Transforms of training pictures and their masks, in order."""

    @model_validator(mode="after")
    def _possible(self) -> ShapesConfig:
        if self.size < 16:
            raise ValueError(f"size {self.size} is too small for shapes; give 16 or more")
        if self.noise < 0 or self.seed < 0:
            raise ValueError("noise and seed must not be negative")
        return self

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    def build(self, split: str) -> Shapes:
        """The pictures of a split."""
        check_split(split)
        return Shapes(self, split, paired_chain(self.augment, None) if split == "train" else None)

    def plain(self, split: str) -> Shapes:
        """The pictures of a split without augmentation."""
        check_split(split)
        return Shapes(self, split, None)


class Shapes(Dataset):
    """Pictures that are drawn when they are read.

    Args:
        config: of the dataset.
        split: ``train``, ``val`` or ``test``.
        transform: augmentation of an image with its mask.
    """

    classes = CLASSES

    def __init__(self, config: ShapesConfig, split: str, transform: PairTransform | None) -> None:
        self.config, self.split, self.transform = config, split, transform

    def __len__(self) -> int:
        return self.config.samples if self.split == "train" else self.config.held_out

    def __getitem__(self, index: int) -> Sample:
        """A picture with its mask."""
        image, mask = self.draw(index)
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return Sample(image, mask, self.name(index))

    def label_of(self, index: int) -> Tensor:
        """The mask, without augmentation."""
        return self.draw(index)[1]

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"shapes/{self.split}/{index}"

    def shape(self, index: int) -> Sequence[int]:
        """(3, S, S)."""
        return 3, self.config.size, self.config.size

    def draw(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, S, S) and (S, S) uint8: a picture and its mask."""
        config, size = self.config, self.config.size
        draw = np.random.default_rng((config.seed, _SPLITS[self.split], index))
        rows, columns = np.mgrid[:size, :size] / size
        picture = _shaded(draw.uniform(0.1, 0.9, 2)[:, None].repeat(3, 1), draw, rows, columns)
        mask = np.zeros((size, size), np.uint8)
        for _ in range(draw.integers(1, config.most + 1)):
            kind = int(draw.integers(len(_INSIDE)))
            radius, angle = draw.uniform(0.16, 0.32), draw.uniform(0, 2 * np.pi)
            x, y = columns - draw.uniform(0.1, 0.9), rows - draw.uniform(0.1, 0.9)
            cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
            inside = _INSIDE[kind](cos * x + sin * y, cos * y - sin * x)
            shaded = _shaded(_colors(draw), draw, rows, columns)
            while abs(shaded - picture)[:, inside].mean(1).max(initial=0) < _CONTRAST and inside.any():
                shaded = _shaded(_colors(draw), draw, rows, columns)
            picture[:, inside] = shaded[:, inside]
            mask[inside] = kind + 1
        picture += draw.normal(0, config.noise, picture.shape)
        pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
        return torch.from_numpy(pixels), torch.from_numpy(mask)


def _colors(draw: np.random.Generator) -> Points:
    """(2, 3) two similar colours that are not grey."""
    while True:
        color = draw.uniform(0, 1, 3)
        if color.max() - color.min() > 0.4:
            return np.stack([color, color + draw.uniform(-0.2, 0.2, 3)])


def _shaded(ends: Points, draw: np.random.Generator, rows: Points, columns: Points) -> Points:
    """(3, S, S) colours that go along a random line from one to another.

    Args:
        ends: (2, 3) both colours.
        draw: gives the direction.
        rows: of the pixels, from 0 to 1.
        columns: the same.
    """
    angle = draw.uniform(0, 2 * np.pi)
    along = 0.5 + (np.cos(angle) * (columns - 0.5) + np.sin(angle) * (rows - 0.5)) / 2**0.5
    first, last = ends[:, :, None, None]
    shaded: Points = first + (last - first) * along
    return shaded
