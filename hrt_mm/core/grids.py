"""Hierarchical order of grids, in which every block of the nested block sizes is one contiguous run of cells.

Blocks of the largest size are in raster order; within each, the blocks of the next smaller size are in raster order,
and so on down to single cells. Grids may have any number of axes and any size: a block at the border that extends past
the grid is a shorter run, and its missing cells are not emitted. Results are cached on the CPU, outside inference mode
so that training can use what evaluation computed first, and must not be modified.

Shapes: C axes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from .errors import UserError

Sizes = tuple[int, ...]
"""A size along each axis."""


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def nested_order(shape: Sizes, blocks: tuple[Sizes, ...]) -> Tensor:
    """Raster index of each cell, in hierarchical order: ``raster_cells[nested_order(...)]``.

    Args:
        shape: cells along each axis.
        blocks: nested block sizes from small to large, each dividing the next; empty for raster order.

    Returns:
        (cells,) int64.

    Raises:
        UserError: a size is below 1, or the blocks do not nest.
    """
    _check(shape, blocks)
    # Build a mixed-radix sort key for every cell. Its digits, from the most significant, are the raster index of the
    # largest block in the grid, of the next smaller block within that one, ..., of the cell within the smallest block.
    key = torch.zeros(shape, dtype=torch.int64)
    for inner, outer in zip((*reversed(blocks), (1,) * len(shape)), (shape, *reversed(blocks)), strict=True):
        for axis, cells in enumerate(shape):
            digit = torch.arange(cells) % outer[axis] // inner[axis]
            radix = -(-outer[axis] // inner[axis])  # rounded up: the grid need not be a multiple of the largest block
            key = key * radix + digit.reshape([-1 if axis == other else 1 for other in range(len(shape))])
    return key.flatten().argsort()


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def nested_coords(shape: Sizes, blocks: tuple[Sizes, ...]) -> Tensor:
    """Coordinates of the cells, in hierarchical order.

    Returns:
        (cells, C) float32: the index of the cell along each axis.

    Raises:
        UserError: as :func:`nested_order`.
    """
    return torch.stack(_unravel(nested_order(shape, blocks), shape), 1).float()


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def block_lengths(shape: Sizes, blocks: tuple[Sizes, ...], size: Sizes) -> Tensor:
    """Lengths of the runs of cells that share a block of ``size``, in hierarchical order.

    Args:
        shape: cells along each axis.
        blocks: nested block sizes from small to large.
        size: one of ``blocks``, a single cell, or the whole ``shape``.

    Returns:
        (runs,) int64; blocks at the border are shorter.

    Raises:
        UserError: ``size`` is not one of ``blocks``, or as :func:`nested_order`.
    """
    _check(shape, blocks)
    _check_size(shape, blocks, size)
    if size == shape:
        return torch.tensor([math.prod(shape)])
    # The outer product of the block lengths along each axis, in raster order, then brought into hierarchical order.
    lengths = torch.ones((), dtype=torch.int64)
    for cells, block in zip(shape, size, strict=True):
        lengths = lengths[..., None] * (cells - torch.arange(0, cells, block)).clamp(max=block)
    return lengths.flatten()[nested_order(coarse_shape(shape, size), coarse_blocks(blocks, size))]


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def block_positions(shape: Sizes, blocks: tuple[Sizes, ...], size: Sizes) -> Tensor:
    """Raster position of each cell within its block of ``size``, in hierarchical order.

    Positions are those of a complete block, also at the border, so that a position always means the same offset.

    Returns:
        (cells,) int64, each below the product of ``size``.

    Raises:
        UserError: as :func:`block_lengths`.
    """
    _check_size(shape, blocks, size)
    # A number whose digits are the offsets along the axes, and whose bases are the sizes of the block.
    position = torch.zeros((), dtype=torch.int64)
    for index, block in zip(_unravel(nested_order(shape, blocks), shape), size, strict=True):
        position = position * block + index % block
    return position


def coarse_shape(shape: Sizes, size: Sizes) -> Sizes:
    """Shape of the grid of blocks of ``size`` that covers ``shape``, rounded up at the border.

    Raises:
        UserError: a size is below 1, or the numbers of axes differ.
    """
    _check(shape, (size,))
    return tuple(-(-cells // block) for cells, block in zip(shape, size, strict=True))


def coarse_blocks(blocks: tuple[Sizes, ...], size: Sizes) -> tuple[Sizes, ...]:
    """The blocks larger than ``size`` in units of ``size``: the nested blocks of the coarse grid.

    Raises:
        UserError: a larger block is not a multiple of ``size``.
    """
    # Smaller blocks lie within single cells of the coarse grid, and no longer matter.
    larger = [block for block in blocks if math.prod(block) > math.prod(size)]
    for block in larger:
        if len(block) != len(size) or any(big % small for big, small in zip(block, size, strict=True)):
            raise UserError(f"block {block} is not a multiple of {size} along every axis; blocks must nest")
    return tuple(tuple(big // small for big, small in zip(block, size, strict=True)) for block in larger)


def _unravel(index: Tensor, shape: Sizes) -> tuple[Tensor, ...]:
    """Raster indices as one index along each axis."""
    # The last axis varies fastest in raster order.
    coords = []
    for cells in reversed(shape):
        coords.append(index % cells)
        index = index // cells
    return tuple(reversed(coords))


def _check(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    if not shape or min(shape) < 1:
        raise UserError(f"a grid needs 1 or more cells along each axis, got {shape}")
    for block in blocks:
        if len(block) != len(shape) or min(block) < 1:
            raise UserError(f"block {block} does not fit the grid {shape}: it needs {len(shape)} sizes of 1 or more")
    for small, large in pairwise(blocks):
        if any(big % little for little, big in zip(small, large, strict=True)):
            raise UserError(f"block {large} is not a multiple of {small} along every axis; blocks must nest")


def _check_size(shape: Sizes, blocks: tuple[Sizes, ...], size: Sizes) -> None:
    allowed = ((1,) * len(shape), *blocks, shape)
    if size not in allowed:
        raise UserError(f"{size} is not one of the nested blocks {allowed}")
