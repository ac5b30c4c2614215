"""A symbol for the silence before and behind what is said.

It stands at both ends of every target, and is no symbol that is told: what reads the scores takes it for the blank.
With a prior the blank cannot stand for silence, and the outer symbols would.

Shapes: N steps, B samples, S symbols of the longest target, K symbols, then silence, then the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .loss import NONE


def as_blank(log_probs_NK: Tensor) -> Tensor:
    """(N, K + 2) log-probabilities to (N, K + 1): silence and the blank are one."""
    silent_N = torch.logaddexp(log_probs_NK[:, -2], log_probs_NK[:, -1])
    return torch.cat([log_probs_NK[:, :-2], silent_N[:, None]], -1)


def edged(target_BS: Tensor, silence: int) -> Tensor:
    """(B, S + 2) targets with silence at both ends.

    Args:
        target_BS: symbols, -1 behind the last.
        silence: its place among the symbols.
    """
    out = F.pad(target_BS, (1, 1), value=NONE)
    out[:, 0] = silence
    return out.scatter(1, (target_BS != NONE).sum(1, keepdim=True) + 1, silence)
