"""Stems of images: a linear map of each patch, convolutions over whole images, or a timm backbone.

Stems beyond a patch rebuild the dense images from the packed raw patches, in buckets of equal grids.

Shapes: T tokens, F raw features a patch, D width, N images of a bucket, C channels, H rows, W columns, h x w cells.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import is_installed, needs_extra
from hrt_mm.core.tokens import Tokens

from .patches import Blocks, GridMaps, unpatchify


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


class TimmStem(Component):
    """A feature map of a timm backbone, projected to the level's width. ``patch`` is the reduction of the map."""

    type: Literal["timm"]
    backbone: str
    """Name of the model in timm."""
    pretrained: bool = False
    """Load timm's weights, from the internet or a cache."""
    frozen: bool = False
    """Do not train the backbone's weights and statistics."""

    @field_validator("backbone")
    @classmethod
    def _exists(cls, value: str) -> str:
        if not is_installed("timm"):
            return value
        import timm

        if not timm.is_model(value):
            near = difflib.get_close_matches(value, timm.list_models(), 3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"timm has no model {value!r}{hint}")
        return value

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the pixels in the training of the backbone."""
        with needs_extra("vision"):
            import timm

        pretrained = timm.models.get_pretrained_cfg(self.backbone)
        return (tuple(pretrained.mean), tuple(pretrained.std)) if pretrained else ((0.5,), (0.5,))

    def build(self, channels: int, patch: int, size: tuple[int, int] | None, dim: int, blocks: Blocks) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``.

        Raises:
            ConfigError: the backbone has no map of this reduction, needs a fixed size, or its weights are missing.
        """
        backbone, width = self._backbone(channels, patch, size)
        return BackboneEmbedding(backbone, width, patch, dim, self.frozen, blocks)

    def _backbone(self, channels: int, patch: int, size: tuple[int, int] | None) -> tuple[nn.Module, int]:
        with needs_extra("vision"):
            import timm

        options: dict[str, Any] = {"features_only": True, "in_chans": channels}
        pretrained = timm.models.get_pretrained_cfg(self.backbone)
        if pretrained is not None and pretrained.fixed_input_size:
            if size is None:
                raise ConfigError(f"backbone {self.backbone!r} takes images of one size only; set size")
            options["img_size"] = size
        try:
            maps: Any = timm.create_model(self.backbone, **options).feature_info
        except Exception as error:
            raise ConfigError(f"timm cannot make feature maps of {self.backbone!r}: {error}") from error
        reductions = list(maps.reduction())
        if patch not in reductions:
            choices = ", ".join(map(str, sorted(set(reductions))))
            raise ConfigError(f"backbone {self.backbone!r} has no feature map at patch {patch}; set patch to {choices}")
        index = len(reductions) - 1 - reductions[::-1].index(patch)
        options["out_indices"] = (maps.out_indices[index],)
        try:
            backbone = timm.create_model(self.backbone, pretrained=self.pretrained, **options)
        except Exception as error:
            raise ConfigError(
                f"the weights of {self.backbone!r} cannot be loaded ({error}); set pretrained: false, or run once "
                "where there is internet"
            ) from error
        return backbone, maps.channels()[index]


Stem = Annotated[ImageLinearStem | ImageConvStem | TimmStem, Field(discriminator="type")]


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
        return _through_images(tokens, self.patch, self.blocks, self.dense)

    def dense(self, images_NCHW: Tensor) -> Tensor:
        """Images to maps (N, h, w, D)."""
        features_NDhw = self.convolutions(images_NCHW.contiguous(memory_format=torch.channels_last))
        mapped: Tensor = self.project(rearrange(features_NDhw, "n d h w -> n h w d"))
        return mapped


class BackboneEmbedding(nn.Module):
    """A backbone over whole images, in buckets of equal sizes.

    Batch statistics, if the backbone has them and is not frozen, are those of a bucket.
    """

    leaves_unused = True

    def __init__(self, backbone: nn.Module, width: int, patch: int, dim: int, frozen: bool, blocks: Blocks) -> None:
        super().__init__()
        self.patch, self.blocks, self.frozen = patch, blocks, frozen
        self.backbone = backbone.requires_grad_(not frozen)
        self.project = nn.Linear(width, dim)
        self.train()

    def train(self, mode: bool = True) -> BackboneEmbedding:
        """Sets training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, F) to (T, D)."""
        return _through_images(tokens, self.patch, self.blocks, self.dense)

    def dense(self, images_NCHW: Tensor) -> Tensor:
        """Images to maps (N, h, w, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            (features_NCHW,) = self.backbone(images_NCHW)
        mapped: Tensor = self.project(rearrange(features_NCHW, "n c h w -> n h w c"))
        return mapped


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), for each pixel separately, so that images stay independent."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The same shape."""
        normed_NHWC = super().forward(rearrange(x_NCHW, "n c h w -> n h w c"))
        return rearrange(normed_NHWC, "n h w c -> n c h w")


def _through_images(tokens: Tokens, patch: int, blocks: Blocks, dense: object) -> Tokens:
    assert callable(dense)
    plan = GridMaps.of(tokens, blocks)
    maps = []
    for bucket, patches_NhwF in zip(plan.buckets, plan.maps(tokens.x), strict=True):
        features_NhwD = dense(unpatchify(patches_NhwF, patch))
        assert features_NhwD.shape[1:3] == bucket.grid, f"a stem gave {features_NhwD.shape[1:3]} for {bucket.grid}"
        maps.append(features_NhwD)
    return tokens.with_x(plan.pack(maps))


def prime_factors(number: int) -> list[int]:
    """The prime factors of a number, ascending."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
