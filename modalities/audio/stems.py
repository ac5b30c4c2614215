"""How raw frames become tokens: a convolution over neighbours.

Shapes: T tokens, F raw features of a token, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.component import Component
from hrt_mm.tokens import Tokens


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


class ConvStem(nn.Module):
    """A linear map of each token, and two maps of it and its neighbours with GELU between them.

    Args:
        features: raw features of a token.
        dim: width.
        config: of the stem.
    """

    def __init__(self, features: int, dim: int, config: StemConfig) -> None:
        super().__init__()
        self.recent, self.ahead = config.recent, config.ahead
        hidden = max(1, round(dim * config.hidden))
        self.own = nn.Linear(features, dim)
        self.wide = nn.Linear(features * (config.recent + config.ahead), hidden)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D). Neighbours beyond the ends of a sample are zeros."""
        x_TF = tokens.x
        near = torch.cat([self._shifted(x_TF, tokens, step) for step in range(-self.ahead, self.recent)], -1)
        return tokens.with_x(self.own(x_TF) + self.out(functional.gelu(self.wide(near))))

    def _shifted(self, x_TF: Tensor, tokens: Tokens, step: int) -> Tensor:
        """What stands ``step`` tokens before each one."""
        if not step:
            return x_TF
        spans = tokens.spans
        outside = spans.positions < step if step > 0 else spans.positions - step >= spans.counts[spans.ids]
        return x_TF.roll(step, 0).masked_fill(outside[:, None], 0)
