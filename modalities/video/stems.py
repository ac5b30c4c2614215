"""Stems: how raw tubes become tokens. Linear per tube, or convolutions over whole videos.

Shapes: T tokens, F raw features a tube, D width, B videos of a bucket, C channels, N frames, H rows, W columns,
t x h x w cells.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from hrt_mm.component import Component
from hrt_mm.tokens import Tokens

from ..vision.patches import Dense
from ..vision.stems import PatchEmbedding
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
    """Convolutions over the whole videos of a batch; each video is treated as if it were alone."""

    def __init__(self, config: ConvStem, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> None:
        super().__init__()
        self.tube, self.patch, self.blocks = tube, patch, blocks
        strides = _prime_factors(patch) or [1]
        wide = config.width or max(8, dim // 2 ** (len(strides) - 1))
        layers: list[nn.Module] = []
        width = channels
        for stage, stride in enumerate(strides):
            # The first one looks at neighbouring frames; after it a frame is seen alone, which costs a third.
            time = config.frames if stage == 0 else 1
            kernel = max(3, 2 * stride - 1)
            padding = (time // 2, kernel // 2, kernel // 2)
            layers += [
                nn.Conv3d(width, wide, (time, kernel, kernel), (1, stride, stride), padding),
                ChannelNorm(wide),
                nn.GELU(),
            ]
            width, wide = wide, 2 * wide
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(width * tube, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        plan = Dense.of(tokens, self.blocks)
        return tokens.with_x(plan.pack([self.dense(tubes_BthwF) for tubes_BthwF in plan.maps(tokens.x)]))

    def dense(self, tubes_BthwF: Tensor) -> Tensor:
        """Raw tubes to maps (B, t, h, w, D)."""
        features_BCNhw = self.convolutions(untubify(tubes_BthwF, self.tube, self.patch))
        # The frames of a tube lie side by side in the features of its token.
        steps_BCtKhw = features_BCNhw.unflatten(2, (-1, self.tube))
        mapped: Tensor = self.project(steps_BCtKhw.permute(0, 2, 4, 5, 1, 3).flatten(4))
        return mapped


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, N, H, W), each pixel alone, so that videos do not see one another."""

    def forward(self, x_BCNHW: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x_BCNHW.movedim(1, -1)).movedim(-1, 1)


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
