"""Haar pooling: an orthonormal wavelet over groups of any length (arXiv 2509.20581; unbalanced Haar, Fryzlewicz 2007).

Neighbours are merged in pairs, then pairs of pairs, until one is left. A merge of parts with n and m tokens is a
rotation: ``low = (sqrt(n) a + sqrt(m) b) / sqrt(n + m)`` and ``detail = (sqrt(m) a - sqrt(n) b) / sqrt(n + m)``. The
last low of a group is its sum over sqrt(length). Lows and details together are as many as the tokens, and their
squares sum to the same.

Shapes: T tokens, G groups, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..segments import segment_broadcast, segment_sum
from ..spans import Spans
from .base import Pooling, PoolingGroups, register_pooling


@register_pooling("haar")
class HaarPooling(Pooling):
    """The low-pass of each group goes up. The details stay in the fine tokens; :func:`decompose` gives them."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_sum(x_TD, groups.spans) * _inverse_root(groups.spans, x_TD)

    def unpool(self, x_GD: Tensor, spans: Spans) -> Tensor:
        return segment_broadcast(x_GD * _inverse_root(spans, x_GD), spans)


def _inverse_root(spans: Spans, like: Tensor) -> Tensor:
    return spans.counts.clamp(min=1).to(like.dtype).rsqrt()[:, None]


@dataclass(frozen=True, eq=False)
class _Merge:
    """One round of merges: rows ``left`` and ``right`` meet by a rotation; ``alone`` rows pass."""

    rows: int
    left: Tensor
    right: Tensor
    cos: Tensor
    sin: Tensor
    alone: Tensor
    merged_to: Tensor
    alone_to: Tensor


def decompose(x_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """The wavelet transform of every group.

    Args:
        x_TD: tokens.
        spans: groups, none of them empty.

    Returns:
        (G, D) lows, and (T - G, D) details.

    Raises:
        UserError: a group is empty.
    """
    details = []
    for merge in _rounds(spans):
        a, b = x_TD.index_select(0, merge.left), x_TD.index_select(0, merge.right)
        cos, sin = merge.cos.to(x_TD.dtype), merge.sin.to(x_TD.dtype)
        details.append(sin * a - cos * b)
        rest = x_TD.index_select(0, merge.alone)
        x_TD = x_TD.new_empty(merge.rows, x_TD.shape[1])
        x_TD = x_TD.index_copy(0, merge.merged_to, cos * a + sin * b).index_copy(0, merge.alone_to, rest)
    return x_TD, torch.cat(details) if details else x_TD[:0]


def reconstruct(low_GD: Tensor, details: Tensor, spans: Spans) -> Tensor:
    """The inverse of :func:`decompose`, exact to rounding.

    Args:
        low_GD: one low a group.
        details: (T - G, D).
        spans: the groups.

    Raises:
        UserError: the numbers of lows and details do not fit the groups.
    """
    if len(low_GD) != len(spans) or len(details) != spans.total - len(spans):
        raise UserError(
            f"{len(spans)} groups of {spans.total} tokens have {len(spans)} lows and {spans.total - len(spans)} "
            f"details, got {len(low_GD)} and {len(details)}"
        )
    rounds = _rounds(spans)
    parts = details.split([len(merge.left) for merge in rounds])
    x_TD = low_GD
    for merge, detail in zip(reversed(rounds), reversed(parts), strict=True):
        low, rest = x_TD.index_select(0, merge.merged_to), x_TD.index_select(0, merge.alone_to)
        cos, sin = merge.cos.to(x_TD.dtype), merge.sin.to(x_TD.dtype)
        rows = 2 * len(merge.left) + len(merge.alone)
        x_TD = x_TD.new_empty(rows, x_TD.shape[1]).index_copy(0, merge.left, cos * low + sin * detail)
        x_TD = x_TD.index_copy(0, merge.right, sin * low - cos * detail).index_copy(0, merge.alone, rest)
    return x_TD


def _rounds(spans: Spans) -> list[_Merge]:
    return spans.cached("haar", lambda: _make_rounds(spans))


def _make_rounds(spans: Spans) -> list[_Merge]:
    if spans.has_empty:
        raise UserError("a wavelet needs at least one token in every group; drop the empty groups")
    rounds = []
    parts = Spans(spans.host)
    weight = torch.ones(parts.total, dtype=torch.float64)
    while parts.max_seqlen > 1:
        place, run = parts.positions, parts.ids
        has_right = place + 1 < parts.lengths[run]
        left = ((place % 2 == 0) & has_right).nonzero().squeeze(1)
        alone = ((place % 2 == 0) & ~has_right).nonzero().squeeze(1)
        after = Spans.from_lengths((parts.lengths + 1) // 2)
        target = after.host[run] + place // 2
        n, m = weight[left], weight[left + 1]
        weight_after = torch.empty(after.total, dtype=torch.float64)
        weight_after[target[left]] = n + m
        weight_after[target[alone]] = weight[alone]
        cos, sin = ((part / (n + m)).sqrt()[:, None] for part in (n, m))
        tensors = (left, left + 1, cos, sin, alone, target[left], target[alone])
        rounds.append(_Merge(after.total, *(tensor.to(spans.device) for tensor in tensors)))
        parts, weight = after, weight_after
    return rounds
