"""Videos to packed tubes in hierarchical order and back, by buckets of equal size.

Shapes: B videos of a bucket, N frames, C channels, H rows, W columns, K frames of a tube, P patch side,
t x h x w cells, F = C * K * P * P features of a raw tube.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from hrt_mm.core.grids import Sizes, nested_order

Blocks = tuple[Sizes, ...]


def tubify(videos_BNCHW: Tensor, tube: int, patch: int, blocks: Blocks) -> Tensor:
    """Cuts videos, whose frames and sides are multiples of ``tube`` and ``patch``, into tubes.

    Returns:
        (B, cells, F) in hierarchical order; features are raster over (C, K, P, P).
    """
    _, frames, _, height, width = videos_BNCHW.shape
    grid = frames // tube, height // patch, width // patch
    cells = rearrange(videos_BNCHW, "b (t k) c (h p) (w q) -> b (t h w) (c k p q)", k=tube, p=patch, q=patch)
    return cells[:, nested_order(grid, blocks)]


def untubify(tubes_BthwF: Tensor, tube: int, patch: int) -> Tensor:
    """Videos (B, C, N, H, W) from tubes (B, t, h, w, F) that lie in raster order."""
    return rearrange(tubes_BthwF, "b t h w (c k p q) -> b c (t k) (h p) (w q)", k=tube, p=patch, q=patch)


def frames_together(grid: Sizes, blocks: Blocks) -> int:
    """How many steps of time at least lie in one run of the hierarchical order, with all that is seen in them.

    The order is raster, with time first, over blocks within blocks. Blocks that cover the picture follow each other in
    time. The first one that does not puts the steps of its own time into each other.

    Args:
        grid: cells along each axis.
        blocks: nested, from small to large.
    """
    return max((block[0] for block in blocks if block[1] < grid[1] or block[2] < grid[2]), default=1)
