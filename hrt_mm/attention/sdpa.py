"""Attention through PyTorch's scaled_dot_product_attention, on every device and in every precision.

Runs of one length fold into the batch dimension as 4-D views. 5-D inputs would fall to the mathematical kernel
without a word (pytorch-image-models, hiera.py), so none are made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .buckets import Bucket, bucket_plan
from .call import Backend, Call
from .kernel import dense_attention


class Sdpa(Backend):
    """Uniform runs as one dense batch; ragged runs and sliding windows as a few."""

    name = "sdpa"

    def missing(self) -> str | None:
        return None

    def why_not(self, call: Call) -> str | None:
        return None

    def __call__(self, call: Call) -> Tensor:
        queries, keys = call.q_spans.uniform, call.k_spans.uniform
        if queries and keys and (call.is_full or (call.is_causal and queries == keys)):
            size = (len(call.q_spans), queries, keys)
            return _dense(call, Bucket(size, 0, 0, None, None, call.is_causal)).flatten(0, 1)
        return _bucketed(call)


def _bucketed(call: Call) -> Tensor:
    plan = bucket_plan(call.q_spans, call.k_spans, call.window)
    outputs = [_dense(call, bucket).flatten(0, 1) for bucket in plan.buckets]
    if not outputs:
        return torch.zeros_like(call.q_THD)
    rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return rows if plan.order is None else rows.index_select(0, plan.order)


def _dense(call: Call, bucket: Bucket) -> Tensor:
    """One bucket, (N, L, H, D)."""
    count, queries, keys = bucket.size
    q_NLHD = _take(call.q_THD, bucket.q_rows, count, queries)
    if not keys:
        return torch.zeros_like(q_NLHD)
    k_NMKD = _take(call.k_SKD, bucket.k_rows, count, keys)
    v_NMKD = _take(call.v_SKD, bucket.k_rows, count, keys)
    out_NHLD = dense_attention(
        q_NLHD.transpose(1, 2), k_NMKD.transpose(1, 2), v_NMKD.transpose(1, 2), bucket.mask, bucket.causal, call.scale
    )
    out_NLHD = out_NHLD.transpose(1, 2)
    return out_NLHD if bucket.blind is None else out_NLHD.masked_fill(bucket.blind, 0)


def _take(x_THD: Tensor, rows: Tensor | int, count: int, length: int) -> Tensor:
    part = x_THD.narrow(0, rows, count * length) if isinstance(rows, int) else x_THD.index_select(0, rows)
    return part.unflatten(0, (count, length))
