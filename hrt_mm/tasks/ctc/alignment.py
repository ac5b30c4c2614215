"""Forced alignment: the likeliest way to lay known symbols along the steps (Viterbi).

Shapes: N steps, K symbols and the blank, which is the last; V = 2S + 1 states: S symbols with a blank around each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...core.errors import UserError


@dataclass(frozen=True)
class Placed:
    """A symbol and its steps.

    Args:
        symbol: its place among the symbols.
        first: its first step.
        last: its last step.
        log_prob: mean over its steps.
    """

    symbol: int
    first: int
    last: int
    log_prob: float


def forced_alignment(log_probs_NK: Tensor, symbols: Sequence[int], name: str = "the sample") -> list[Placed]:
    """Where each symbol lies. Steps between two of them are blanks.

    Args:
        log_probs_NK: of one sample's steps.
        symbols: what is said, in order.
        name: of the sample, for messages.

    Raises:
        UserError: there are more symbols than steps, or log-probabilities that are no numbers.
    """
    scores_NK = log_probs_NK.detach().double().cpu().numpy()
    count, blank = len(scores_NK), scores_NK.shape[1] - 1
    labels_V = np.full(2 * len(symbols) + 1, blank)
    labels_V[1::2] = symbols
    twice = int((labels_V[1::2][1:] == labels_V[1::2][:-1]).sum())
    if len(symbols) + twice > count:
        raise UserError(
            f"{name}: {len(symbols)} symbols do not fit into {count} steps; each takes one, and one more stands "
            "between two alike"
        )
    if np.isnan(scores_NK).any():
        raise UserError(f"{name}: log-probabilities are not numbers")
    if not symbols:
        return []
    path_N = _best_path(scores_NK[:, labels_V], labels_V, blank)
    found = []
    for place, symbol in enumerate(symbols):
        steps = np.flatnonzero(path_N == 2 * place + 1)
        found.append(Placed(symbol, int(steps[0]), int(steps[-1]), float(scores_NK[steps, symbol].mean())))
    return found


def _best_path(scores_NV: np.ndarray, labels_V: np.ndarray, blank: int) -> np.ndarray:
    """(N,) the state of each step."""
    count, states = scores_NV.shape
    # A blank between two symbols may be left out where they differ.
    skips_V = np.zeros(states, dtype=bool)
    skips_V[2:] = (labels_V[2:] != blank) & (labels_V[2:] != labels_V[:-2])
    best_V = np.full(states, -np.inf)
    best_V[:2] = scores_NV[0, :2]
    moves_NV = np.zeros((count, states), dtype=np.int8)
    for step in range(1, count):
        ways_3V = np.full((3, states), -np.inf)
        ways_3V[0] = best_V
        ways_3V[1, 1:] = best_V[:-1]
        ways_3V[2, 2:] = np.where(skips_V[2:], best_V[:-2], -np.inf)
        moves_NV[step] = ways_3V.argmax(0)
        best_V = ways_3V.max(0) + scores_NV[step]
    state = states - 1 if best_V[-1] >= best_V[-2] else states - 2
    path_N = np.empty(count, dtype=np.int64)
    for step in range(count - 1, -1, -1):
        path_N[step] = state
        state -= int(moves_NV[step, state])
    return path_N
