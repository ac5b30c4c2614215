"""Stems: how raw tubes become tokens. Linear per tube, or convolutions over whole videos.

Shapes: T tokens, F raw features a tube, D width, B videos of a bucket, C channels, N frames, M frames of several
videos, H rows, W columns, t x h x w cells.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.component import Component
from hrt_mm.tokens import Tokens

from ..vision.patches import Dense, buckets
from ..vision.stems import ChannelNorm, PatchEmbedding
from .tubes import Blocks, untubify


class LinearStem(Component):
    """One linear map a tube."""

    type: Literal["linear"] = "linear"

    @property
    def reach(self) -> int:
        """Frames before and after a tube that its token has seen."""
        return 0

    def build(self, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        return PatchEmbedding(channels * tube * patch**2, dim)


class ConvStem(Component):
    """Overlapping convolutions over space and time, which see motion: a halving a prime factor of the patch."""

    type: Literal["conv"]
    width: PositiveInt | None = None
    """Channels after the first halving, doubled by each one after; such that the last has the level's width when
    absent."""
    frames: PositiveInt = 3
    """Frames that the first convolution sees at once; an odd number."""

    @field_validator("frames")
    @classmethod
    def _centred(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"frames must be odd, so that what is seen is centred, got {value}")
        return value

    @property
    def reach(self) -> int:
        """Frames before and after a tube that its token has seen."""
        return self.frames // 2

    def build(self, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        return ConvEmbedding(self, channels, tube, patch, dim, blocks)


Stem = Annotated[LinearStem | ConvStem, Field(discriminator="type")]


class ConvEmbedding(nn.Module):
    """Convolutions over the whole videos of a batch; each video is treated as if it were alone.

    Frames are stacked with their neighbours and lie in one batch whatever video they are of, so that convolutions in
    two dimensions serve. Those in three are slow on a CPU.
    """

    def __init__(self, config: ConvStem, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> None:
        super().__init__()
        self.frames, self.tube, self.patch, self.blocks = config.frames, tube, patch, blocks
        strides = _prime_factors(patch) or [1]
        wide = config.width or max(8, dim // 2 ** (len(strides) - 1))
        layers: list[nn.Module] = []
        width = channels * config.frames
        for stride in strides:
            kernel = max(3, 2 * stride - 1)
            layers += [nn.Conv2d(width, wide, kernel, stride, kernel // 2), ChannelNorm(wide), nn.GELU()]
            width, wide = wide, 2 * wide
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.project = nn.Linear(width * tube, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        plan = Dense.of(tokens, self.blocks)
        stacks = [self._stacked(tubes_BthwF) for tubes_BthwF in plan.maps(tokens.x)]
        maps: list[Tensor | None] = [None] * len(stacks)
        for places in buckets(stack.shape[2:] for stack in stacks).values():
            features_MChw = self.dense(torch.cat([stacks[place] for place in places]))
            parts = features_MChw.split([len(stacks[place]) for place in places])
            for place, part in zip(places, parts, strict=True):
                maps[place] = self._mapped(part, plan.buckets[place].grid)
        return tokens.with_x(plan.pack([found for found in maps if found is not None]))

    def dense(self, stacks_MCHW: Tensor) -> Tensor:
        """Frames with their neighbours, (M, C, H, W), to features (M, C, h, w)."""
        features: Tensor = self.convolutions(stacks_MCHW.contiguous(memory_format=torch.channels_last))
        return features

    def _stacked(self, tubes_BthwF: Tensor) -> Tensor:
        """Raw tubes to frames, each with the ones around it as more channels; zeros where a video ends."""
        videos_BCNHW = untubify(tubes_BthwF, self.tube, self.patch)
        reach = self.frames // 2
        padded = functional.pad(videos_BCNHW, (0, 0, 0, 0, reach, reach))
        count = videos_BCNHW.shape[2]
        around = torch.cat([padded[:, :, first : first + count] for first in range(self.frames)], 1)
        return around.transpose(1, 2).flatten(0, 1)

    def _mapped(self, features_MChw: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Features of frames to maps (B, t, h, w, D); the frames of a tube lie side by side in its features."""
        steps = features_MChw.unflatten(0, (-1, grid[0], self.tube)).permute(0, 1, 4, 5, 2, 3)
        mapped: Tensor = self.project(steps.flatten(4))
        return mapped


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
