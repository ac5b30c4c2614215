"""Attention as written in its formula, in the precision of its inputs. Other backends are tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from .call import Backend, Call


class Reference(Backend):
    """softmax(q k^T scale) v, one run at a time. Memory is quadratic in the longest run."""

    name = "reference"

    def missing(self) -> str | None:
        return None

    def why_not(self, call: Call) -> str | None:
        return None

    def __call__(self, call: Call) -> Tensor:
        queries_per_key = call.q_THD.shape[1] // call.k_SKD.shape[1]
        outputs = []
        for q_LHD, k_MKD, v_MKD in zip(
            call.q_spans.split(call.q_THD), call.k_spans.split(call.k_SKD), call.k_spans.split(call.v_SKD), strict=True
        ):
            # Each key head serves as many query heads in a row.
            k_MHD = k_MKD.repeat_interleave(queries_per_key, 1)
            v_MHD = v_MKD.repeat_interleave(queries_per_key, 1)
            scores_HLM = torch.einsum("lhd,mhd->hlm", q_LHD, k_MHD) * call.scale
            visible_LM = visible(len(q_LHD), len(k_MHD), call.window, q_LHD.device)
            # Rows without a visible key would be NaN after the softmax: unmask them, then zero them.
            fully_masked_L1 = ~visible_LM.any(-1, keepdim=True)
            weights_HLM = scores_HLM.masked_fill(~(visible_LM | fully_masked_L1), float("-inf")).softmax(-1)
            outputs.append(torch.einsum("hlm,mhd->lhd", weights_HLM.masked_fill(fully_masked_L1, 0), v_MHD))
        return torch.cat(outputs) if outputs else torch.zeros_like(call.q_THD)


def visible(queries: int, keys: int, window: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """(queries, keys) bool mask of the keys that each query sees, aligned at the end."""
    left, right = window
    # b - a - (M - L): the last query is at the position of the last key.
    offset_LM = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - (keys - queries)
    visible_LM = torch.ones_like(offset_LM, dtype=torch.bool)
    if left >= 0:
        visible_LM &= offset_LM >= -left
    if right >= 0:
        visible_LM &= offset_LM <= right
    return visible_LM
