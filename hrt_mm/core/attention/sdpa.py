"""Attention through PyTorch's ``scaled_dot_product_attention``, on every device and in every precision.

Runs of one length become the batch dimension of 4-D views. 5-D inputs would silently fall back to the unfused math
kernel (see hiera.py in pytorch-image-models).

On a CPU in half precision, the gradient of the fused kernel takes 4 to 17 times as long as that of plain matrix
products at lengths up to 128, and longer than in float32 beyond (torch 2.14, AMX). Training in half precision therefore
uses matrix products for short runs and float32 for long ones.

Shapes: T query rows, N runs, H query heads, K key heads, L queries, M keys, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..host import on_host
from .buckets import Bucket, bucket_plan
from .call import Backend, Call

_SHORT = 128
"""Longest run for which matrix products are faster."""


class Sdpa(Backend):
    """Runs of one length are one dense batch; ragged runs and sliding windows are a few."""

    name = "sdpa"

    def missing(self) -> str | None:
        return None

    def why_not(self, call: Call) -> str | None:
        return None

    def __call__(self, call: Call) -> Tensor:
        queries, keys = call.q_spans.uniform, call.k_spans.uniform
        # Full or causal attention over runs of one length needs neither a mask nor a gather.
        if queries and keys and (call.is_full or (call.is_causal and queries == keys)):
            bucket = Bucket((len(call.q_spans), queries, keys), None, None, call.is_causal)
            return _dense(call.q_THD, call.k_SKD, call.v_SKD, bucket, call.scale)
        return _bucketed(call)


@on_host
def _bucketed(call: Call) -> Tensor:
    # The number of buckets and their sizes differ by batch, and compiled graphs would with them.
    plan = bucket_plan(call.q_spans, call.k_spans, call.window)
    if not plan.buckets:
        return torch.zeros_like(call.q_THD)
    arguments = zip(
        _gather(call.q_THD, plan.q_rows).split(plan.q_sizes),
        _gather(call.k_SKD, plan.k_rows).split(plan.k_sizes),
        _gather(call.v_SKD, plan.k_rows).split(plan.k_sizes),
        plan.buckets,
        strict=True,
    )
    # Buckets are in the order of the plan; its last gather brings their rows back into packed order.
    outputs = [_dense(*bucket, call.scale) for bucket in arguments]
    rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return _gather(rows, plan.order)


def _gather(x_THD: Tensor, rows: Tensor | None) -> Tensor:
    return x_THD if rows is None else x_THD.index_select(0, rows)


def _dense(q_QHD: Tensor, k_PKD: Tensor, v_PKD: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Attention of one bucket: Q = N * L query rows and P = N * M key rows to (Q, H, D)."""
    count, queries, keys = bucket.size
    if not keys:
        return torch.zeros_like(q_QHD)
    # (N * L, H, D) to (N, H, L, D), the layout of the kernel. Only the views change; the rows are contiguous already.
    q_NHLD, k_NKMD, v_NKMD = (
        x.unflatten(0, (count, length)).transpose(1, 2)
        for x, length in ((q_QHD, queries), (k_PKD, keys), (v_PKD, keys))
    )
    out_NHLD = _kernel(q_NHLD, k_NKMD, v_NKMD, bucket.mask, bucket.causal, scale)
    out_NLHD = out_NHLD.transpose(1, 2)
    return (out_NLHD if bucket.fully_masked is None else out_NLHD.masked_fill(bucket.fully_masked, 0)).flatten(0, 1)


def _kernel(q_NHLD: Tensor, k_NKMD: Tensor, v_NKMD: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """softmax(q k^T scale + mask) v over dense batches, (N, H, L, D)."""
    half_on_cpu = q_NHLD.device.type == "cpu" and q_NHLD.dtype in (torch.bfloat16, torch.float16)
    if (
        half_on_cpu
        and torch.is_grad_enabled()
        and (q_NHLD.requires_grad or k_NKMD.requires_grad or v_NKMD.requires_grad)
    ):
        # See the top of the module for both replacements.
        if max(q_NHLD.shape[2], k_NKMD.shape[2]) <= _SHORT:
            return _matmuls(q_NHLD, k_NKMD, v_NKMD, mask, causal, scale)
        with torch.autocast("cpu", enabled=False):
            wide_NHLD = _fused(q_NHLD.float(), k_NKMD.float(), v_NKMD.float(), mask, causal, scale)
        return wide_NHLD.to(q_NHLD.dtype)
    return _fused(q_NHLD, k_NKMD, v_NKMD, mask, causal, scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _matmuls(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    queries_per_key = q.shape[1] // k.shape[1]
    if queries_per_key > 1:
        k, v = k.repeat_interleave(queries_per_key, 1), v.repeat_interleave(queries_per_key, 1)
    # Scaling the queries touches L rows of D numbers instead of L * M scores.
    scores_NHLM = (q * scale) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(scores_NHLM.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores_NHLM = scores_NHLM.masked_fill(~mask, float("-inf"))
    return scores_NHLM.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
