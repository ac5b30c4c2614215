"""Greedy decoding: the likeliest symbol of each frame, repeats collapsed, blanks dropped.

Shapes: N frames, K symbols and the blank, which is the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from torch import Tensor

from ...core.errors import UserError


def greedy(log_probs_NK: Tensor) -> list[int]:
    """The symbols of one sample's frames.

    Raises:
        UserError: a log-probability is NaN.
    """
    if log_probs_NK.isnan().any():
        raise UserError("log-probabilities are NaN, so no symbol is the likeliest; try another checkpoint, or float32")
    return collapsed(log_probs_NK.argmax(-1).tolist(), log_probs_NK.shape[1] - 1)


def collapsed(path: Iterable[int], blank: int) -> list[int]:
    """The symbols of a path: repeats collapsed, blanks dropped."""
    return [symbol for symbol, _ in groupby(path) if symbol != blank]
