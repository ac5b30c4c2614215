"""Haar pooling: an orthonormal wavelet over groups of any length (arXiv 2509.20581; unbalanced Haar, Fryzlewicz 2007).

Neighbours are merged in pairs, then pairs of pairs, until one coefficient is left. Merging coefficients of n and m
tokens is a rotation: ``low = (sqrt(n) a + sqrt(m) b) / sqrt(n + m)``, and ``detail = (sqrt(m) a - sqrt(n) b) / sqrt(n +
m)``. The final low-pass coefficient of a group is its sum divided by sqrt(length). Low-pass and detail coefficients
together are as many as the tokens and have the same energy.

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
    """Keeps the low-pass coefficient of each group. :func:`decompose` also computes the details."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        # The rotations of all rounds multiply to this factor (see above), so no round is computed.
        return segment_sum(x_TD, groups.spans) * _inverse_sqrt_length(groups.spans, x_TD)

    def unpool(self, x_GD: Tensor, spans: Spans) -> Tensor:
        return segment_broadcast(x_GD * _inverse_sqrt_length(spans, x_GD), spans)


def _inverse_sqrt_length(spans: Spans, like: Tensor) -> Tensor:
    return spans.counts.clamp(min=1).to(like.dtype).rsqrt()[:, None]


@dataclass(frozen=True, eq=False)
class _Merge:
    """One round of merges over all groups.

    Args:
        rows: number of rows after the round.
        left: rows merged with the next one.
        right: the next rows.
        cos: weight of ``left`` in the low-pass coefficient.
        sin: weight of ``right``.
        unpaired: last rows of groups with an odd number of rows, which are copied.
        merged_to: target rows of the merges.
        unpaired_to: target rows of ``unpaired``.
    """

    rows: int
    left: Tensor
    right: Tensor
    cos: Tensor
    sin: Tensor
    unpaired: Tensor
    merged_to: Tensor
    unpaired_to: Tensor


def decompose(x_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """The wavelet transform of every group.

    Args:
        x_TD: tokens.
        spans: groups, none of them empty.

    Returns:
        (G, D) low-pass and (T - G, D) detail coefficients.

    Raises:
        UserError: a group is empty.
    """
    details = []
    for merge in _rounds(spans):
        a, b = x_TD.index_select(0, merge.left), x_TD.index_select(0, merge.right)
        cos, sin = merge.cos.to(x_TD.dtype), merge.sin.to(x_TD.dtype)
        # Rotate each pair into a detail, which is kept, and a low-pass coefficient for the next round.
        details.append(sin * a - cos * b)
        rest = x_TD.index_select(0, merge.unpaired)
        x_TD = x_TD.new_empty(merge.rows, x_TD.shape[1])
        x_TD = x_TD.index_copy(0, merge.merged_to, cos * a + sin * b).index_copy(0, merge.unpaired_to, rest)
    return x_TD, torch.cat(details) if details else x_TD[:0]


def reconstruct(low_GD: Tensor, details: Tensor, spans: Spans) -> Tensor:
    """The inverse of :func:`decompose`, exact to rounding.

    Args:
        low_GD: low-pass coefficients.
        details: (T - G, D) detail coefficients.
        spans: the groups.

    Raises:
        UserError: the numbers of coefficients do not fit the groups.
    """
    if len(low_GD) != len(spans) or len(details) != spans.total - len(spans):
        raise UserError(
            f"{len(spans)} groups of {spans.total} tokens have {len(spans)} lows and {spans.total - len(spans)} "
            f"details, got {len(low_GD)} and {len(details)}"
        )
    # Undo the rounds from the last to the first. The rotations are symmetric, so they are their own inverses.
    rounds = _rounds(spans)
    by_round = details.split([len(merge.left) for merge in rounds])
    x_TD = low_GD
    for merge, detail in zip(reversed(rounds), reversed(by_round), strict=True):
        low, rest = x_TD.index_select(0, merge.merged_to), x_TD.index_select(0, merge.unpaired_to)
        cos, sin = merge.cos.to(x_TD.dtype), merge.sin.to(x_TD.dtype)
        rows = 2 * len(merge.left) + len(merge.unpaired)
        x_TD = x_TD.new_empty(rows, x_TD.shape[1]).index_copy(0, merge.left, cos * low + sin * detail)
        x_TD = x_TD.index_copy(0, merge.right, sin * low - cos * detail).index_copy(0, merge.unpaired, rest)
    return x_TD


def _rounds(spans: Spans) -> list[_Merge]:
    return spans.cached("haar", lambda: _make_rounds(spans))


def _make_rounds(spans: Spans) -> list[_Merge]:
    if spans.has_empty:
        raise UserError("a wavelet needs at least one token in every group; drop the empty groups")
    rounds = []
    # On the CPU, where the rounds are planned.
    current = Spans(spans.host)
    weight = torch.ones(current.total, dtype=torch.float64)  # tokens under each row
    while current.max_seqlen > 1:
        # Even rows of a group merge with the next one; the last row of a group with an odd number of rows stays.
        position, group = current.positions, current.ids
        has_next = position + 1 < current.lengths[group]
        left = ((position % 2 == 0) & has_next).nonzero().squeeze(1)
        unpaired = ((position % 2 == 0) & ~has_next).nonzero().squeeze(1)
        # Both lead to one row: position 2i and 2i + 1 of a group to its position i.
        after = Spans.from_lengths((current.lengths + 1) // 2)
        target = after.host[group] + position // 2
        # A row stands for as many tokens as were merged into it, which gives the angle of its rotation.
        n, m = weight[left], weight[left + 1]
        weight_after = torch.empty(after.total, dtype=torch.float64)
        weight_after[target[left]] = n + m
        weight_after[target[unpaired]] = weight[unpaired]
        cos, sin = (n / (n + m)).sqrt()[:, None], (m / (n + m)).sqrt()[:, None]
        tensors = (left, left + 1, cos, sin, unpaired, target[left], target[unpaired])
        rounds.append(_Merge(after.total, *(tensor.to(spans.device) for tensor in tensors)))
        current, weight = after, weight_after
    return rounds
