"""Segment reductions over runs of packed rows, and the broadcast back. Runs of equal length reduce as a dense view.

Shapes: T rows, G runs, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .spans import Spans


def segment_sum(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.foldable:
        return _folded(x_TD, runs).sum(1)
    return _float32_sum(x_TD, runs).to(x_TD.dtype)


def segment_mean(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.foldable:
        if runs.valid_T is None:
            return _folded(x_TD, runs).mean(1)
        sum_GD = _folded(x_TD, runs).sum(1)
        return sum_GD / _as_column(runs.counts.clamp(min=1).to(sum_GD.dtype), x_TD)
    sum_GD = _float32_sum(x_TD, runs)
    # Empty runs have a sum of zero, which any divisor keeps.
    size_G = runs.counts.clamp(min=1).to(sum_GD.dtype)
    return (sum_GD / _as_column(size_G, x_TD)).to(x_TD.dtype)


def _float32_sum(x_TD: Tensor, runs: Spans) -> Tensor:
    # index_add on a GPU accumulates in the precision of its input, and a bfloat16 count of ones stops at 256.
    wide_TD = x_TD.float() if x_TD.dtype in (torch.bfloat16, torch.float16) else x_TD
    return wide_TD.new_zeros(len(runs), *x_TD.shape[1:]).index_add(0, runs.ids, wide_TD)


def segment_max(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.foldable:
        largest_GD = _folded(x_TD, runs, float("-inf")).amax(1)
        return largest_GD if runs.valid_T is None else torch.where(_as_column(runs.counts > 0, x_TD), largest_GD, 0)
    # scatter_reduce takes one target row per element, so the run ids are broadcast over the features.
    index_TD = _as_column(runs.ids, x_TD).expand_as(x_TD)
    zeros_GD = x_TD.new_zeros(len(runs), *x_TD.shape[1:])
    return zeros_GD.scatter_reduce(0, index_TD, x_TD, "amax", include_self=False)


def segment_first(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D): the first row of each run. Empty runs give zeros."""
    if runs.foldable:
        return _folded(x_TD, runs)[:, 0]
    first_G = runs.cu_seqlens[:-1].long()
    if not runs.has_empty:
        return x_TD.index_select(0, first_G)
    zeros_GD = x_TD.new_zeros(len(runs), *x_TD.shape[1:])
    if not runs.total:
        return zeros_GD
    # An empty run starts where the next one does, the last ones past the end: select any row, then mask it.
    rows_GD = x_TD.index_select(0, first_G.clamp(max=runs.total - 1))
    return torch.where(_as_column(runs.counts > 0, x_TD), rows_GD, zeros_GD)


def segment_broadcast(x_GD: Tensor, runs: Spans) -> Tensor:
    """(G, D) to (T, D): repeats the row of each run for every row in it."""
    if runs.foldable:
        assert runs.uniform is not None
        return x_GD[:, None].expand(-1, runs.uniform, *x_GD.shape[1:]).flatten(0, 1)
    return x_GD.index_select(0, runs.ids)


def only_valid(x_TD: Tensor, runs: Spans, fill: float = 0.0) -> Tensor:
    """Rows that do not exist, which only dense batches have, replaced by ``fill``."""
    return x_TD if runs.valid_T is None else x_TD.masked_fill(~_as_column(runs.valid_T, x_TD), fill)


def _folded(x_TD: Tensor, runs: Spans, fill: float = 0.0) -> Tensor:
    """(T, D) to (G, L, D), for runs of L rows."""
    assert runs.uniform is not None
    return only_valid(x_TD, runs, fill).unflatten(0, (-1, runs.uniform))


def limit_group_length(starts_T: Tensor, max_length: int) -> Tensor:
    """Adds a start wherever a group would grow past ``max_length`` rows. The first row must be a start.

    Args:
        starts_T: (T,) bool.
        max_length: maximum rows of a group.
    """
    row_T = torch.arange(len(starts_T), device=starts_T.device)
    # A running maximum over the rows of starts gives each row the last start at or before it.
    since_start_T = row_T - torch.where(starts_T, row_T, 0).cummax(0).values
    return starts_T | (since_start_T % max_length == 0)


def shift_right(x_GD: Tensor, samples: Spans, first: Tensor) -> Tensor:
    """Shifts the rows of each sample by one: every row gets its predecessor, and the first one gets ``first``.

    Args:
        x_GD: (G, ...) rows.
        samples: runs of the rows.
        first: one row, (...), or (G, ...), of which that of the first row of each sample is used.
    """
    if not x_GD.shape[0]:
        return x_GD
    # roll carries the last row of a sample to the first one of the next, which is replaced.
    is_first_G = _as_column(samples.positions == 0, x_GD)
    return torch.where(is_first_G, first.to(x_GD.dtype), x_GD.roll(1, 0))


def _as_column(values_T: Tensor, x_TD: Tensor) -> Tensor:
    """(T,) values with trailing axes of size 1, which broadcast over the features of ``x_TD``."""
    return values_T.view(-1, *[1] * (x_TD.ndim - 1))
