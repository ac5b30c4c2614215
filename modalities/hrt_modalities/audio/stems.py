"""The stem of sounds: a convolution over neighbouring frames, or a pretrained encoder.

Shapes: T tokens, F raw features of a token, D width.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.component import Component
from hrt_mm.core.tokens import Tokens

from .pretrained import ResemblyzerStem, TorchaudioSound, TransformersSound


class StemConfig(Component):
    """A convolution over frames, before the first block."""

    frames: PositiveInt = 1
    """Frames that are stacked to one token, the stride of the stem. With 4 and a hop of 10 ms, a token is 40 ms."""
    recent: PositiveInt = 5
    """Receptive field in tokens: the token itself and those before it."""
    ahead: Annotated[int, Field(ge=0, le=64)] = 0
    """Lookahead in tokens; 0 in causal models."""
    hidden: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Hidden width of the convolution, as a multiple of the level's width."""
    channels: NonNegativeInt = 0
    """Channels of the first of two convolutions over time and bands, instead of a linear map; the second has twice as
    many. They recognize a resonance at any frequency, which helps with unknown speakers. None when 0."""


def _kind(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "frames" if kind is None else kind


SoundStems = Annotated[
    Annotated[StemConfig, Tag("frames")]
    | Annotated[TransformersSound, Tag("transformers")]
    | Annotated[TorchaudioSound, Tag("torchaudio")]
    | Annotated[ResemblyzerStem, Tag("resemblyzer")],
    Discriminator(_kind),
]
"""A stem without a type is a convolution."""


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
        # Convolutions need the order of time. The linear map has the reverse order, which existing weights rely on.
        steps = steps[::-1] if isinstance(self.wide, BandMap) else steps
        near = torch.cat([_shifted(x_TF, tokens, step) for step in steps], -1)
        return tokens.with_x(self.own(x_TF) + self.out(functional.gelu(self.wide(near))))


def _shifted(x_TF: Tensor, tokens: Tokens, step: int) -> Tensor:
    """The features ``step`` tokens before each token; zeros outside of its sample."""
    if not step:
        return x_TF
    spans = tokens.spans
    outside = spans.positions < step if step > 0 else spans.positions - step >= spans.counts[spans.ids]
    return x_TF.roll(step, 0).masked_fill(outside[:, None], 0)


class BandMap(nn.Module):
    """Two convolutions with stride 2 over time and bands, and a linear map.

    The subsampling of Deep Speech 2 (arXiv 1512.02595), applied to each token's frames and neighbours separately, so
    that streams and batches give the same.

    Args:
        frames: per token and its neighbours, in order of time.
        bands: per frame.
        channels: of the first convolution; the second has twice as many.
        hidden: output width.
    """

    def __init__(self, frames: int, bands: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.frames, self.bands = frames, bands
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        quarter = -(-frames // 4) * -(-bands // 4)
        self.map = nn.Linear(2 * channels * quarter, hidden)

    def forward(self, near_TF: Tensor) -> Tensor:
        """(T, H) from the concatenated frames of tokens and their neighbours."""
        image = near_TF.reshape(-1, 1, self.frames, self.bands)
        features = functional.gelu(self.second(functional.gelu(self.first(image))))
        mapped: Tensor = self.map(features.flatten(1))
        return mapped
