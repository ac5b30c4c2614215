"""Images to packed patches in hierarchical order and back, by buckets of equal size.

Shapes: N images of a bucket, C channels, H rows, W columns, P patch side, h x w cells, T tokens,
F = C * P * P features of a raw patch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor

from hrt_mm.core.errors import UserError
from hrt_mm.core.grids import nested_order
from hrt_mm.core.tokens import Tokens

Blocks = tuple[tuple[int, ...], ...]
_Key = TypeVar("_Key", bound=Hashable)


def patchify(images_NCHW: Tensor, patch: int, blocks: Blocks) -> Tensor:
    """Cuts images, whose sides are multiples of ``patch``, into patches.

    Returns:
        (N, cells, F) in hierarchical order; features are raster over (C, P, P).
    """
    grid = images_NCHW.shape[2] // patch, images_NCHW.shape[3] // patch
    cells = rearrange(images_NCHW, "n c (h p) (w q) -> n (h w) (c p q)", p=patch, q=patch)
    return cells[:, nested_order(grid, blocks)]


def unpatchify(patches_NhwF: Tensor, patch: int) -> Tensor:
    """Images (N, C, H, W) from patches (N, h, w, F) that lie in raster order."""
    return rearrange(patches_NhwF, "n h w (c p q) -> n c (h p) (w q)", p=patch, q=patch)


@dataclass(frozen=True)
class GridBucket:
    """The images or videos of a batch that share a grid.

    Args:
        grid: cells along each axis.
        samples: their indices in the batch.
        rows: (N * cells,) row of each cell in the packed tokens, sample after sample, each in raster order.
    """

    grid: tuple[int, ...]
    samples: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class GridMaps:
    """Conversion between the packed tokens of a batch and dense maps, one per bucket of equal grids, on any axes."""

    buckets: tuple[GridBucket, ...]
    back: Tensor
    """(T,) index of each packed token among the concatenated rows of the buckets."""

    @classmethod
    def of(cls, tokens: Tokens, blocks: Blocks) -> GridMaps:
        """The maps of a batch, computed once.

        Raises:
            UserError: the tokens are not grids.
        """
        return tokens.spans.cached(("dense", blocks), lambda: _plan(tokens, blocks))

    def maps(self, x: Tensor) -> list[Tensor]:
        """(N, h, w, ...) for each bucket from packed features (T, ...); (N, t, h, w, ...) for videos."""
        return [x[bucket.rows].reshape(len(bucket.samples), *bucket.grid, *x.shape[1:]) for bucket in self.buckets]

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Packed features (T, D) from the maps (N, h, w, D) of all buckets; the inverse of :meth:`maps`."""
        return torch.cat([dense.flatten(0, -2) for dense in maps])[self.back]


def buckets(keys: Iterable[_Key]) -> dict[_Key, list[int]]:
    """Indices of equal keys, in order of first occurrence."""
    indices_by_key: dict[_Key, list[int]] = {}
    for index, key in enumerate(keys):
        indices_by_key.setdefault(key, []).append(index)
    return indices_by_key


def _plan(tokens: Tokens, blocks: Blocks) -> GridMaps:
    if tokens.grids is None:
        raise UserError("a stem over whole images needs tokens of images, which are grids")
    parts = []
    for grid, samples in buckets(tokens.grids).items():
        # nested_order has the raster cell of each row; its inverse has the row of each raster cell.
        order = nested_order(grid, blocks).argsort()
        rows = (tokens.spans.host[samples, None] + order).flatten()
        parts.append(GridBucket(grid, tuple(samples), rows))
    back = torch.cat([bucket.rows for bucket in parts]).argsort()
    device = tokens.device
    on_device = (GridBucket(part.grid, part.samples, part.rows.to(device, non_blocking=True)) for part in parts)
    return GridMaps(tuple(on_device), back.to(device, non_blocking=True))


def through_images(tokens: Tokens, patch: int, blocks: Blocks, dense: Callable[[Tensor], Tensor]) -> Tokens:
    """Rebuilds the images of raw patches, and packs what a function makes of them, one call for each size.

    Args:
        tokens: raw patches (T, F).
        patch: side of a patch in pixels.
        blocks: of the hierarchical order.
        dense: from images (N, C, H, W) to maps (N, h, w, D).

    Returns:
        (T, D).

    Raises:
        UserError: the tokens are not grids.
    """
    plan = GridMaps.of(tokens, blocks)
    maps = []
    for bucket, patches_NhwF in zip(plan.buckets, plan.maps(tokens.x), strict=True):
        features_NhwD = dense(unpatchify(patches_NhwF, patch))
        assert features_NhwD.shape[1:3] == bucket.grid, f"a stem gave {features_NhwD.shape[1:3]} for {bucket.grid}"
        maps.append(features_NhwD)
    return tokens.with_x(plan.pack(maps))
