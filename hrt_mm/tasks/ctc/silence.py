"""A symbol for the silence before and after speech.

It stands at both ends of every target and is never decoded: decoders read it as blank. A prior makes the blank too
costly to cover silence, which the first and last symbols would otherwise absorb.

Shapes: N frames, B samples, S symbols of the longest target, K symbols, then silence, then the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .loss import NONE


def merge_silence(log_probs_NK: Tensor) -> Tensor:
    """(N, K + 2) log-probabilities to (N, K + 1): the probabilities of silence and blank are added."""
    silent_N = torch.logaddexp(log_probs_NK[:, -2], log_probs_NK[:, -1])
    return torch.cat([log_probs_NK[:, :-2], silent_N[:, None]], -1)


def add_silence(target_BS: Tensor, silence: int) -> Tensor:
    """(B, S + 2) targets with silence at both ends.

    Args:
        target_BS: symbols, padded with -1.
        silence: index of silence.
    """
    out = F.pad(target_BS, (1, 1), value=NONE)
    out[:, 0] = silence
    return out.scatter(1, (target_BS != NONE).sum(1, keepdim=True) + 1, silence)
