"""How raw frames become tokens: a convolution over neighbours.

Shapes: T tokens, F raw features of a token, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.component import Component
from hrt_mm.core.tokens import Tokens


class StemConfig(Component):
    """A convolution over frames, before the first block."""

    frames: PositiveInt = 1
    """Frames that are stacked to one token: the stride of the stem. With 4 and a hop of 10 ms, a token is 40 ms."""
    recent: PositiveInt = 5
    """Tokens that one is made of: its own and those before it."""
    ahead: Annotated[int, Field(ge=0, le=64)] = 0
    """Tokens after its own that one is made of as well. A causal model takes 0."""
    hidden: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Width between the convolution's two maps, as a multiple of the level's width."""
    channels: NonNegativeInt = 0
    """Channels of a convolution over time and bands, and half of those of the next, in place of the first map: a
    resonance is then known wherever a voice has it, as with unknown speakers. None when 0."""


class AudioConvStem(nn.Module):
    """A linear map of each token, and two maps of it and its neighbours with GELU between them.

    Args:
        features: raw features of a token.
        dim: width.
        config: of the stem.
    """

    wide: nn.Module

    def __init__(self, features: int, dim: int, config: StemConfig) -> None:
        super().__init__()
        self.recent, self.ahead = config.recent, config.ahead
        hidden = max(1, round(dim * config.hidden))
        self.own = nn.Linear(features, dim)
        reach = config.recent + config.ahead
        if config.channels:
            bands = features // config.frames
            self.wide = BandMap(reach * config.frames, bands, config.channels, hidden)
        else:
            self.wide = nn.Linear(features * reach, hidden)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D). Neighbours beyond the ends of a sample are zeros."""
        x_TF = tokens.x
        steps = range(-self.ahead, self.recent)
        # What goes over time needs the order of time; the linear map had the other one first, and weights are kept.
        steps = steps[::-1] if isinstance(self.wide, BandMap) else steps
        near = torch.cat([self._shifted(x_TF, tokens, step) for step in steps], -1)
        return tokens.with_x(self.own(x_TF) + self.out(functional.gelu(self.wide(near))))

    def _shifted(self, x_TF: Tensor, tokens: Tokens, step: int) -> Tensor:
        """What stands ``step`` tokens before each one."""
        if not step:
            return x_TF
        spans = tokens.spans
        outside = spans.positions < step if step > 0 else spans.positions - step >= spans.counts[spans.ids]
        return x_TF.roll(step, 0).masked_fill(outside[:, None], 0)


class BandMap(nn.Module):
    """Two convolutions over time and bands, each of which halves both, and a linear map of what they found.

    The subsampling of Deep Speech 2 (arXiv 1512.02595), of each token's own frames and neighbours alone: the same in a
    stream, and in a batch.

    Args:
        frames: in order of time.
        bands: of each frame.
        channels: of the first convolution; the second has twice as many.
        hidden: width of what comes out.
    """

    def __init__(self, frames: int, bands: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.frames, self.bands = frames, bands
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        quarter = -(-frames // 4) * -(-bands // 4)
        self.map = nn.Linear(2 * channels * quarter, hidden)

    def forward(self, near_TF: Tensor) -> Tensor:
        """(T, H) of the frames of tokens and their neighbours, laid end to end."""
        image = near_TF.reshape(-1, 1, self.frames, self.bands)
        features = functional.gelu(self.second(functional.gelu(self.first(image))))
        mapped: Tensor = self.map(features.flatten(1))
        return mapped
