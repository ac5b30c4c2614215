"""Attention as its formula reads, in the precision of its inputs: the truth that every other backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from .call import Backend, Call


class Reference(Backend):
    """softmax(q k^T scale) v, a run at a time. For tests; memory is quadratic in the longest run."""

    name = "reference"

    def missing(self) -> str | None:
        return None

    def why_not(self, call: Call) -> str | None:
        return None

    def __call__(self, call: Call) -> Tensor:
        share = call.q_THD.shape[1] // call.k_SKD.shape[1]
        outputs = []
        for q_LHD, k_MKD, v_MKD in zip(
            call.q_spans.split(call.q_THD), call.k_spans.split(call.k_SKD), call.k_spans.split(call.v_SKD), strict=True
        ):
            k_MHD = k_MKD.repeat_interleave(share, 1)
            v_MHD = v_MKD.repeat_interleave(share, 1)
            scores_HLM = torch.einsum("lhd,mhd->hlm", q_LHD, k_MHD) * call.scale
            seen_LM = visible(len(q_LHD), len(k_MHD), call.window, q_LHD.device)
            blind_L1 = ~seen_LM.any(-1, keepdim=True)
            weights_HLM = scores_HLM.masked_fill(~(seen_LM | blind_L1), float("-inf")).softmax(-1)
            outputs.append(torch.einsum("hlm,mhd->lhd", weights_HLM.masked_fill(blind_L1, 0), v_MHD))
        return torch.cat(outputs) if outputs else torch.zeros_like(call.q_THD)


def visible(queries: int, keys: int, window: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """(queries, keys) bool: which keys a query sees, aligned at the end."""
    left, right = window
    offset_LM = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - (keys - queries)
    seen_LM = torch.ones_like(offset_LM, dtype=torch.bool)
    if left >= 0:
        seen_LM &= offset_LM >= -left
    if right >= 0:
        seen_LM &= offset_LM <= right
    return seen_LM
