"""Stems of videos: a linear map of each tube, convolutions over whole videos, or a pretrained encoder of each frame.

Shapes: T tokens, F raw features a tube, D width, B videos of a bucket, C channels, N frames, M frames of several
videos, H rows, W columns, t x h x w cells.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.component import Component
from hrt_mm.core.tokens import Tokens

from ..common.pretrained import StemEncoder
from ..vision.encoders import OpenClipImageStem, TimmStem, TransformersImageStem
from ..vision.patches import Blocks, GridMaps, buckets
from ..vision.stems import ChannelNorm, PatchEmbedding, prime_factors

_CONTRAST = 4.0
"""Factor of differences between frames, which are small compared with the frames."""

_FRAMES = 32
"""Frames that a frozen encoder reads at once."""


class VideoLinearStem(Component):
    """A linear map of each tube."""

    type: Literal["linear"] = "linear"

    @property
    def reach(self) -> int:
        """Frames before and after a tube that its token depends on."""
        return 0

    def build(self, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        return PatchEmbedding(channels * tube * patch**2, dim)


class VideoConvStem(Component):
    """Overlapping convolutions over space and time, with strides of the prime factors of the patch; they see motion."""

    type: Literal["conv"]
    width: PositiveInt | None = None
    """Channels after the first stride, which each further one doubles; when absent, such that the last has the level's
    width."""
    frames: PositiveInt = 3
    """Frames in the receptive field of the first convolution; an odd number."""
    distances: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Distances of the frames before and after, ascending, one for each pair; consecutive frames when absent. With
    frames: 5, [1, 4] covers fast and slow changes."""
    differences: bool = False
    """Replace neighbouring frames by their differences from the frame itself, times four, which shows motion from the
    first step of training on (Temporal Difference Networks, arXiv 2012.10071)."""

    gated: NonNegativeInt = 0
    """Number of convolutions, from the first one on, with gated linear units (arXiv 1612.08083): the product of a frame
    with its change shows the direction of motion, which sums learn slowly."""

    @model_validator(mode="after")
    def _has_neighbours(self) -> VideoConvStem:
        if self.differences and self.frames == 1:
            raise ValueError("differences has no effect with frames: 1; raise frames or drop it")
        if self.distances is not None and len(self.distances) != self.frames // 2:
            raise ValueError(
                f"distances has {len(self.distances)} numbers, but frames: {self.frames} has {self.frames // 2} on "
                f"each side; set frames: {2 * len(self.distances) + 1}"
            )
        if self.distances is not None and sorted(set(self.distances)) != list(self.distances):
            raise ValueError(f"distances must rise, got {list(self.distances)}")
        return self

    @field_validator("frames")
    @classmethod
    def _centred(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"frames must be odd, so that what is seen is centred, got {value}")
        return value

    @property
    def reach(self) -> int:
        """Frames before and after a tube that its token depends on."""
        return max(self.offsets)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Offsets of the frames in the receptive field from the middle one."""
        after = self.distances or tuple(range(1, self.frames // 2 + 1))
        return (*(-distance for distance in reversed(after)), 0, *after)

    def build(self, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``."""
        return ConvTubeEmbedding(self, channels, tube, patch, dim, blocks)


Stem = Annotated[
    VideoLinearStem | VideoConvStem | TimmStem | TransformersImageStem | OpenClipImageStem,
    Field(discriminator="type"),
]


class ConvTubeEmbedding(nn.Module):
    """Convolutions over whole videos; the videos of a batch do not affect each other.

    Frames are stacked with their neighbours as channels, and the frames of all videos form one batch. This allows 2-D
    convolutions; 3-D ones are slow on a CPU.
    """

    def __init__(self, config: VideoConvStem, channels: int, tube: int, patch: int, dim: int, blocks: Blocks) -> None:
        super().__init__()
        self.offsets, self.reach = config.offsets, config.reach
        self.frames, self.tube, self.patch, self.blocks = config.frames, tube, patch, blocks
        self.differences = config.differences
        strides = prime_factors(patch) or [1]
        wide = config.width or max(8, dim // 2 ** (len(strides) - 1))
        layers: list[nn.Module] = []
        width = channels * config.frames
        for number, stride in enumerate(strides):
            kernel = max(3, 2 * stride - 1)
            made, act = (2 * wide, Gate()) if number < config.gated else (wide, nn.GELU())
            layers += [nn.Conv2d(width, made, kernel, stride, kernel // 2), ChannelNorm(made), act]
            width, wide = wide, 2 * wide
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.project = nn.Linear(width * tube, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        plan = GridMaps.of(tokens, self.blocks)
        x, device = tokens.x, tokens.x.device.type
        if torch.is_autocast_enabled(device):
            # Rounded before stacking, which repeats each frame several times.
            x = x.to(torch.get_autocast_dtype(device))
        stacks = [self._stacked(tubes_BthwF) for tubes_BthwF in plan.maps(x)]
        maps: list[Tensor | None] = [None] * len(stacks)
        for indices in buckets(stack.shape[2:] for stack in stacks).values():
            group = [stacks[index] for index in indices]
            features_MChw = self.dense(torch.cat(group) if len(group) > 1 else group[0])
            parts = features_MChw.split([len(stacks[index]) for index in indices])
            for index, part in zip(indices, parts, strict=True):
                maps[index] = self._mapped(part, plan.buckets[index].grid)
        return tokens.with_x(plan.pack([map_ for map_ in maps if map_ is not None]))

    def dense_maps(self, raster_BNHWC: Tensor) -> Tensor:
        """Frames of videos of one shape, for whole tubes, to maps (B, t, h, w, D)."""
        steps = raster_BNHWC.shape[1] // self.tube
        features_MChw = self.dense(self._near(raster_BNHWC))
        # Copied, as for a view of several axes as one the tracer would ask whether a side is 1.
        split = features_MChw.unflatten(0, (-1, steps, self.tube)).permute(0, 1, 4, 5, 2, 3)
        mapped: Tensor = self.project(split.clone(memory_format=torch.contiguous_format).flatten(4))
        return mapped

    def dense(self, stacks_MCHW: Tensor) -> Tensor:
        """Frames with their neighbours, (M, C, H, W), to features (M, C, h, w)."""
        first, *others = self.convolutions
        assert isinstance(first, nn.Conv2d)
        input_MCHW = stacks_MCHW.contiguous(memory_format=torch.channels_last)
        features_MChw = functional.conv2d(input_MCHW, self._weights(first), first.bias, first.stride, first.padding)
        for layer in others:
            features_MChw = layer(features_MChw)
        return features_MChw

    def _weights(self, first: nn.Conv2d) -> Tensor:
        """Weights of the first convolution for frames instead of differences.

        The convolution of differences is linear in the frames, so the differences can be moved to the weights, which
        are much smaller than the frames.
        """
        if not self.differences:
            return first.weight
        weight = first.weight.unflatten(1, (self.frames, -1))
        half = self.frames // 2
        before, self_weight, after = weight.split([half, 1, half], 1)
        around = _CONTRAST * (before.sum(1, keepdim=True) + after.sum(1, keepdim=True))
        return torch.cat([_CONTRAST * before, self_weight - around, _CONTRAST * after], 1).flatten(1, 2)

    def _stacked(self, tubes_BthwF: Tensor) -> Tensor:
        """Raw tubes to frames (M, C, H, W), each with its neighbours as further channels."""
        # Channels are innermost from here on, which convolutions prefer.
        raster_BNHWC = rearrange(
            tubes_BthwF,
            "b t h w (c k p q) -> b (t k) (h p) (w q) c",
            k=self.tube,
            p=self.patch,
            q=self.patch,
        )
        return self._near(raster_BNHWC)

    def _near(self, raster_BNHWC: Tensor) -> Tensor:
        """Frames to frames (M, C, H, W) with their neighbours as further channels.

        At the ends of a video the first and last frames are repeated, because zeros would look like a change.
        """
        frames, still = raster_BNHWC.shape[1], (-1, self.reach, -1, -1, -1)
        first, last = raster_BNHWC[:, :1].expand(still), raster_BNHWC[:, -1:].expand(still)
        longer = torch.cat([first, raster_BNHWC, last], 1) if self.reach else raster_BNHWC
        near = torch.cat([longer.narrow(1, self.reach + offset, frames) for offset in self.offsets], -1)
        return rearrange(near, "b n h w c -> (b n) c h w")

    def _mapped(self, features_MChw: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Features of frames to maps (B, t, h, w, D); the features of a tube are those of its frames, concatenated."""
        steps = rearrange(features_MChw, "(b t k) c h w -> b t h w (k c)", t=grid[0], k=self.tube)
        mapped: Tensor = self.project(steps)
        return mapped


class FrameEmbedding(nn.Module):
    """A pretrained image encoder over each frame; the features of a tube are those of its frames, concatenated."""

    def __init__(self, backbone: StemEncoder, width: int, tube: int, patch: int, dim: int, blocks: Blocks) -> None:
        super().__init__()
        self.tube, self.patch, self.blocks, self.backbone = tube, patch, blocks, backbone
        self.project = nn.Linear(width * tube, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        plan = GridMaps.of(tokens, self.blocks)
        maps = []
        for tubes_BthwF in plan.maps(tokens.x):
            side = {"k": self.tube, "p": self.patch, "q": self.patch}
            frames = rearrange(tubes_BthwF, "b t h w (c k p q) -> (b t k) c (h p) (w q)", **side)
            maps.append(self._mapped(frames, tubes_BthwF.shape[1]))
        return tokens.with_x(plan.pack(maps))

    def dense_maps(self, raster_BNHWC: Tensor) -> Tensor:
        """Frames of videos of one shape, for whole tubes, to maps (B, t, h, w, D)."""
        return self._mapped(rearrange(raster_BNHWC, "b n h w c -> (b n) c h w"), raster_BNHWC.shape[1] // self.tube)

    def _mapped(self, frames_MCHW: Tensor, steps: int) -> Tensor:
        if self.backbone.is_trained and torch.is_grad_enabled():
            features = self.backbone.features(frames_MCHW)
        else:
            # Without a graph, memory does not grow with the length of a video, except by its features.
            features = torch.cat([self.backbone.features(part) for part in frames_MCHW.split(_FRAMES)])
        tubes = rearrange(features, "(b t k) h w d -> b t h w (k d)", t=steps, k=self.tube)
        mapped: Tensor = self.project(tubes)
        return mapped


class Gate(nn.Module):
    """A gated linear unit: one half of the channels times SiLU of the other (SwiGLU without maps, arXiv 2002.05202)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, 2 C, H, W) to (N, C, H, W)."""
        value, gate = x_NCHW.chunk(2, 1)
        return value * functional.silu(gate)
