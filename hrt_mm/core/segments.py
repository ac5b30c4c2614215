"""Sums, means and maxima over the runs of packed rows, and back: a view and one reduction where runs are of one length.

Shapes: T rows, G runs, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .spans import Spans


def segment_sum(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.uniform:
        return x_TD.unflatten(0, (-1, runs.uniform)).sum(1)
    return _wide_sum(x_TD, runs).to(x_TD.dtype)


def segment_mean(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.uniform:
        return x_TD.unflatten(0, (-1, runs.uniform)).mean(1)
    sum_GD = _wide_sum(x_TD, runs)
    size_G = runs.counts.clamp(min=1).to(sum_GD.dtype)
    return (sum_GD / size_G.view(-1, *[1] * (x_TD.ndim - 1))).to(x_TD.dtype)


def _wide_sum(x_TD: Tensor, runs: Spans) -> Tensor:
    # A GPU adds up in the precision of the rows, and in bfloat16 ones stop at 256.
    wide_TD = x_TD.float() if x_TD.dtype in (torch.bfloat16, torch.float16) else x_TD
    return wide_TD.new_zeros(len(runs), *x_TD.shape[1:]).index_add(0, runs.ids, wide_TD)


def segment_max(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D). Empty runs give zeros."""
    if runs.uniform:
        return x_TD.unflatten(0, (-1, runs.uniform)).amax(1)
    index_TD = runs.ids.view(-1, *[1] * (x_TD.ndim - 1)).expand_as(x_TD)
    zeros_GD = x_TD.new_zeros(len(runs), *x_TD.shape[1:])
    return zeros_GD.scatter_reduce(0, index_TD, x_TD, "amax", include_self=False)


def segment_first(x_TD: Tensor, runs: Spans) -> Tensor:
    """(T, D) to (G, D): the first row of each run. Empty runs give zeros."""
    if runs.uniform:
        return x_TD.unflatten(0, (-1, runs.uniform))[:, 0]
    first_G = runs.cu_seqlens[:-1].long()
    if not runs.has_empty:
        return x_TD.index_select(0, first_G)
    zeros_GD = x_TD.new_zeros(len(runs), *x_TD.shape[1:])
    if not runs.total:
        return zeros_GD
    rows_GD = x_TD.index_select(0, first_G.clamp(max=runs.total - 1))
    return torch.where((runs.counts > 0).view(-1, *[1] * (x_TD.ndim - 1)), rows_GD, zeros_GD)


def segment_broadcast(x_GD: Tensor, runs: Spans) -> Tensor:
    """(G, D) to (T, D): each run's row at every one of its rows."""
    if runs.uniform:
        return x_GD[:, None].expand(-1, runs.uniform, *x_GD.shape[1:]).flatten(0, 1)
    return x_GD.index_select(0, runs.ids)


def limit_group_length(starts_T: Tensor, longest: int) -> Tensor:
    """Adds a start wherever a group would grow past ``longest`` rows. The first row must be a start.

    Args:
        starts_T: (T,) bool.
        longest: rows a group may have.
    """
    place_T = torch.arange(len(starts_T), device=starts_T.device)
    since_T = place_T - torch.where(starts_T, place_T, 0).cummax(0).values
    return starts_T | (since_T % longest == 0)


def shift_right(x_GD: Tensor, samples: Spans, lead: Tensor) -> Tensor:
    """Each row's predecessor in its sample; ``lead`` stands before the first.

    Args:
        x_GD: (G, ...) rows.
        samples: runs of the rows.
        lead: one row, (...).
    """
    if not len(x_GD):
        return x_GD
    is_first_G = (samples.positions == 0).view(-1, *[1] * (x_GD.ndim - 1))
    return torch.where(is_first_G, lead.to(x_GD.dtype), x_GD.roll(1, 0))
