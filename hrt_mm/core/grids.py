"""Hierarchical order of grids: every block of the nested sizes is one contiguous run of cells.

The order is raster over the largest blocks, inside them raster over the next smaller ones, down to raster over
cells, for grids of any number of axes and any size. Cells that a border block would have outside the grid are not
emitted, so that block is a shorter run. All tensors live on the CPU, are cached (made outside inference mode, so that
training can use what evaluation made first), and must not be written to.

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
    """The raster index of each cell, in hierarchical order: ``raster_cells[nested_order(...)]``.

    Args:
        shape: cells along each axis.
        blocks: nested block sizes from small to large, each one dividing the next; empty for raster order.

    Returns:
        (cells,) int64.

    Raises:
        UserError: a size is below 1, or the blocks do not nest.
    """
    _check(shape, blocks)
    # Per axis, the place at each nesting depth; the grid's key at a depth is raster over its axes.
    key = torch.zeros(shape, dtype=torch.int64)
    for inner, outer in zip((*reversed(blocks), (1,) * len(shape)), (shape, *reversed(blocks)), strict=True):
        for axis, cells in enumerate(shape):
            place = torch.arange(cells) % outer[axis] // inner[axis]
            extent = -(-outer[axis] // inner[axis])
            key = key * extent + place.reshape([-1 if axis == other else 1 for other in range(len(shape))])
    return key.flatten().argsort()


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def nested_coords(shape: Sizes, blocks: tuple[Sizes, ...]) -> Tensor:
    """Where each cell lies, in hierarchical order.

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
        (runs,) int64; a block at the border is shorter.

    Raises:
        UserError: ``size`` is not one of ``blocks``, or as :func:`nested_order`.
    """
    _check(shape, blocks)
    _check_size(shape, blocks, size)
    if size == shape:
        return torch.tensor([math.prod(shape)])
    lengths = torch.ones((), dtype=torch.int64)
    for cells, step in zip(shape, size, strict=True):
        lengths = lengths[..., None] * (cells - torch.arange(0, cells, step)).clamp(max=step)
    return lengths.flatten()[nested_order(coarse_shape(shape, size), coarse_blocks(blocks, size))]


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def block_positions(shape: Sizes, blocks: tuple[Sizes, ...], size: Sizes) -> Tensor:
    """The raster place of each cell inside its block of ``size``, in hierarchical order.

    A border block that lacks cells leaves their places empty, so a place always means the same offset.

    Returns:
        (cells,) int64, each below the product of ``size``.

    Raises:
        UserError: as :func:`block_lengths`.
    """
    _check_size(shape, blocks, size)
    place = torch.zeros((), dtype=torch.int64)
    for index, step in zip(_unravel(nested_order(shape, blocks), shape), size, strict=True):
        place = place * step + index % step
    return place


def coarse_shape(shape: Sizes, size: Sizes) -> Sizes:
    """The grid of blocks of ``size`` that covers ``shape``: rounded up, for the border.

    Raises:
        UserError: a size is below 1, or the numbers of axes differ.
    """
    _check(shape, (size,))
    return tuple(-(-cells // step) for cells, step in zip(shape, size, strict=True))


def coarse_blocks(blocks: tuple[Sizes, ...], size: Sizes) -> tuple[Sizes, ...]:
    """The blocks larger than ``size``, counted in blocks of ``size``: the nesting of the coarse grid.

    Raises:
        UserError: a larger block is not a multiple of ``size``.
    """
    larger = [block for block in blocks if math.prod(block) > math.prod(size)]
    for block in larger:
        if len(block) != len(size) or any(big % small for big, small in zip(block, size, strict=True)):
            raise UserError(f"block {block} is not a multiple of {size} along every axis; blocks must nest")
    return tuple(tuple(big // small for big, small in zip(block, size, strict=True)) for block in larger)


def _unravel(index: Tensor, shape: Sizes) -> tuple[Tensor, ...]:
    places = []
    for cells in reversed(shape):
        places.append(index % cells)
        index = index // cells
    return tuple(reversed(places))


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
