"""Attention over dense batches, which exported graphs consist of.

Shapes: T query rows, S key rows, N runs, L queries, M keys, H query heads, K key heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dense import DenseSpans

_HIDDEN = -1e30
"""Added to scores of keys that are hidden. Finite, so that queries that see no key give no NaN."""


def attend_dense(
    q_THE: Tensor,
    k_SKE: Tensor,
    v_SKE: Tensor,
    q_spans: DenseSpans,
    k_spans: DenseSpans,
    window: tuple[int, int],
    scale: float,
) -> Tensor:
    """:func:`hrt_mm.core.attention.attend` for dense batches, (T, H, E). Queries that see no key give any finite value.

    Args:
        q_THE: queries.
        k_SKE: keys.
        v_SKE: values.
        q_spans: runs of the queries.
        k_spans: runs of the keys.
        window: keys visible to the left and to the right, -1 for no bound; then queries and keys have one length.
        scale: of the scores.
    """
    heads, repeats = q_THE.shape[1], q_THE.shape[1] // k_SKE.shape[1]
    if repeats > 1:
        k_SKE, v_SKE = k_SKE.repeat_interleave(repeats, 1), v_SKE.repeat_interleave(repeats, 1)
    # Batched products of contiguous tensors: for views and fused kernels, the tracer would ask whether a length is 1.
    q = _contiguous(q_spans.folded(q_THE).transpose(1, 2)).flatten(0, 1)
    k = _contiguous(k_spans.folded(k_SKE).permute(0, 2, 3, 1)).flatten(0, 1)
    v = _contiguous(k_spans.folded(v_SKE).transpose(1, 2)).flatten(0, 1)
    scores = torch.bmm(q * scale, k)
    hidden = _hidden(q_spans, k_spans, window, heads, q.dtype)
    out = torch.bmm((scores if hidden is None else scores + hidden).softmax(-1), v)
    return q_spans.packed(_contiguous(out.unflatten(0, (q_spans.count, heads)).transpose(1, 2)))


def _contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _hidden(
    q_spans: DenseSpans, k_spans: DenseSpans, window: tuple[int, int], heads: int, dtype: torch.dtype
) -> Tensor | None:
    """What is added to the scores, broadcast over (N * H, L, M)."""
    visible: Tensor | None = None
    if window != (-1, -1):
        position = torch.arange(q_spans.max_seqlen, device=q_spans.device)
        distance = position - position[:, None]
        left, right = window
        visible = torch.ones_like(distance, dtype=torch.bool)
        visible = visible & (distance >= -left) if left >= 0 else visible
        visible = visible & (distance <= right) if right >= 0 else visible
    exists = k_spans.exists
    if exists is not None:
        exists = exists.repeat_interleave(heads, 0)[:, None]
        visible = exists if visible is None else exists & visible
    if visible is None:
        return None
    return torch.where(visible, 0.0, _HIDDEN).to(dtype)
