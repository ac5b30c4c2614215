"""Videos to packed tubes in hierarchical order and back, by buckets of equal size.

Shapes: B videos of a bucket, N frames, C channels, H rows, W columns, K frames of a tube, P patch side,
t x h x w cells, F = C * K * P * P features of a raw tube.
"""

from __future__ import annotations

from torch import Tensor

from hrt_mm.core.grids import Sizes, nested_order

Blocks = tuple[Sizes, ...]


def tubify(videos_BNCHW: Tensor, tube: int, patch: int, blocks: Blocks) -> Tensor:
    """Cuts videos, whose frames and sides are multiples of ``tube`` and ``patch``, into tubes.

    Returns:
        (B, cells, F) in hierarchical order; features are raster over (C, K, P, P).
    """
    count, frames, channels, height, width = videos_BNCHW.shape
    grid = frames // tube, height // patch, width // patch
    cells = videos_BNCHW.reshape(count, grid[0], tube, channels, grid[1], patch, grid[2], patch)
    cells = cells.permute(0, 1, 4, 6, 3, 2, 5, 7)
    return cells.reshape(count, grid[0] * grid[1] * grid[2], -1)[:, nested_order(grid, blocks)]


def untubify(tubes_BthwF: Tensor, tube: int, patch: int) -> Tensor:
    """Videos (B, C, N, H, W) from tubes (B, t, h, w, F) that lie in raster order."""
    count, steps, rows, columns, features = tubes_BthwF.shape
    cells = tubes_BthwF.reshape(count, steps, rows, columns, features // (tube * patch**2), tube, patch, patch)
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(count, -1, steps * tube, rows * patch, columns * patch)


def frames_together(grid: Sizes, blocks: Blocks) -> int:
    """How many steps of time at least lie in one run of the hierarchical order, with all that is seen in them.

    The order is raster, with time first, over blocks within blocks. Blocks that cover the picture follow each other in
    time. The first one that does not puts the steps of its own time into each other.

    Args:
        grid: cells along each axis.
        blocks: nested, from small to large.
    """
    return max((block[0] for block in blocks if block[1] < grid[1] or block[2] < grid[2]), default=1)
