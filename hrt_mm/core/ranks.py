"""Rows of all ranks, with gradients: what a loss over the global batch compares each rank's own rows with.

Shapes: N rows of this rank, G of all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Ranks that train together; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(x_ND: Tensor) -> Tensor:
    """(G, ...) the rows of all ranks in their order, each rank with as many as it has.

    The gradient of a row is the sum of what all ranks pass back for it. Every rank must call this, and go backward
    through it, even where it has no row.
    """
    if world_size() == 1:
        return x_ND
    rows: Tensor = _Gathered.apply(x_ND)
    return rows


def summed(x: Tensor) -> Tensor:
    """The sum over ranks, without gradient."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def _lengths(x_ND: Tensor) -> list[int]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=x_ND.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x_ND)], device=x_ND.device))
    return [int(size) for size in sizes]


class _Gathered(torch.autograd.Function):
    """Pads to the longest share, since backends gather tensors of one shape."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor) -> Tensor:
        lengths = _lengths(x_ND)
        padded = x_ND.new_zeros(max(lengths), *x_ND.shape[1:])
        padded[: len(x_ND)] = x_ND
        shares = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(shares, padded)
        ctx.first, ctx.length = sum(lengths[: dist.get_rank()]), len(x_ND)
        return torch.cat([share[:length] for share, length in zip(shares, lengths, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank compared this rank's rows with its own, and has a part of their gradient.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.first : ctx.first + ctx.length]
