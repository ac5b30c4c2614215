"""Stems of images: a linear map of each patch, convolutions over whole images, or a pretrained encoder.

Stems beyond a patch rebuild the dense images from the packed raw patches, in buckets of equal grids.

Shapes: T tokens, F raw features a patch, D width, N images of a bucket, C channels, H rows, W columns, h x w cells.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.tokens import Tokens

from .encoders import OpenClipImageStem, TimmStem, TransformersImageStem
from .patches import Blocks, through_images


class ImageLinearStem(Component):
    """A linear map of each patch."""

    type: Literal["linear"] = "linear"

    def build(self, channels: int, patch: int, size: tuple[int, int] | None, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        return PatchEmbedding(channels * patch**2, dim)


class ImageConvStem(Component):
    """Overlapping convolutions, with strides of the prime factors of the patch; for small models (arXiv 2106.14881)."""

    type: Literal["conv"]
    width: PositiveInt | None = None
    """Channels after the first stride, which each further one doubles; when absent, such that the last has the level's
    width."""
    depth: PositiveInt = 1
    """Convolutions per stride: the first one has the stride, the others keep the size."""

    def build(self, channels: int, patch: int, size: tuple[int, int] | None, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        strides = prime_factors(patch) or [1]
        first = self.width or max(8, dim // 2 ** (len(strides) - 1))
        return ConvPatchEmbedding(channels, patch, strides, first, self.depth, dim, blocks)


Stem = Annotated[
    ImageLinearStem | ImageConvStem | TimmStem | TransformersImageStem | OpenClipImageStem,
    Field(discriminator="type"),
]


class PatchEmbedding(nn.Module):
    """A linear map of each raw patch."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        return tokens.with_x(self.project(tokens.x))


class ConvPatchEmbedding(nn.Module):
    """Convolutions over whole images; the images of a batch do not affect each other."""

    def __init__(
        self, channels: int, patch: int, strides: list[int], first: int, depth: int, dim: int, blocks: Blocks
    ) -> None:
        super().__init__()
        self.patch, self.blocks = patch, blocks
        layers: list[nn.Module] = []
        width = channels
        for stage, stride in enumerate(strides):
            wider = first * 2**stage
            for step in [stride] + [1] * (depth - 1):
                kernel = max(3, 2 * step - 1)
                layers += [nn.Conv2d(width, wider, kernel, step, kernel // 2), ChannelNorm(wider), nn.GELU()]
                width = wider
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.project = nn.Linear(width, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        return through_images(tokens, self.patch, self.blocks, self.dense)

    def dense(self, images_NCHW: Tensor) -> Tensor:
        """Images to maps (N, h, w, D)."""
        features_NDhw = self.convolutions(images_NCHW.contiguous(memory_format=torch.channels_last))
        mapped: Tensor = self.project(rearrange(features_NDhw, "n d h w -> n h w d"))
        return mapped


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), for each pixel separately, so that images stay independent."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The same shape."""
        normed_NHWC = super().forward(rearrange(x_NCHW, "n c h w -> n h w c"))
        return rearrange(normed_NHWC, "n h w c -> n c h w")


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number, ascending."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
