"""The dense kernel of the sdpa backend, with replacements where PyTorch's fused kernel is slow.

On a CPU in half precision, the gradient of the fused kernel takes 4 to 17 times as long as that of plain matrix
products at lengths up to 128, and longer than in float32 beyond (torch 2.14, AMX). Training in half precision therefore
uses matrix products for short runs and float32 for long ones.

Shapes: N runs, H query heads, K key heads, L queries, M keys, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_SHORT = 128
"""Longest run for which matrix products are faster."""


def dense_attention(
    q_NHLE: Tensor, k_NKME: Tensor, v_NKME: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """softmax(q k^T scale + mask) v over dense batches, (N, H, L, E)."""
    half_on_cpu = q_NHLE.device.type == "cpu" and q_NHLE.dtype in (torch.bfloat16, torch.float16)
    if (
        half_on_cpu
        and torch.is_grad_enabled()
        and (q_NHLE.requires_grad or k_NKME.requires_grad or v_NKME.requires_grad)
    ):
        if max(q_NHLE.shape[2], k_NKME.shape[2]) <= _SHORT:
            return _matmuls(q_NHLE, k_NKME, v_NKME, mask, causal, scale)
        with torch.autocast("cpu", enabled=False):
            wide_NHLE = _fused(q_NHLE.float(), k_NKME.float(), v_NKME.float(), mask, causal, scale)
        return wide_NHLE.to(q_NHLE.dtype)
    return _fused(q_NHLE, k_NKME, v_NKME, mask, causal, scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _matmuls(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    queries_per_key = q.shape[1] // k.shape[1]
    if queries_per_key > 1:
        k, v = k.repeat_interleave(queries_per_key, 1), v.repeat_interleave(queries_per_key, 1)
    scores_NHLM = (q * scale) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(scores_NHLM.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores_NHLM = scores_NHLM.masked_fill(~mask, float("-inf"))
    return scores_NHLM.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
