"""Forced alignment: the likeliest path of known symbols through the frames (Viterbi).

Shapes: N frames, K symbols and the blank, which is the last; V = 2S + 1 states: S symbols with a blank around each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...core.errors import UserError


@dataclass(frozen=True)
class AlignedSymbol:
    """A symbol with its frames.

    Args:
        symbol: its index.
        first: its first frame.
        last: its last frame.
        log_prob: mean over its frames.
    """

    symbol: int
    first: int
    last: int
    log_prob: float


def forced_alignment(log_probs_NK: Tensor, symbols: Sequence[int], name: str = "the sample") -> list[AlignedSymbol]:
    """The frames of each symbol. Those between two symbols are blanks.

    Args:
        log_probs_NK: of one sample's frames.
        symbols: indices of the symbols, in order.
        name: of the sample, for messages.

    Raises:
        UserError: there are more symbols than frames, or a log-probability is NaN.
    """
    # Thousands of frames are summed, and the best paths differ in little.
    scores_NK = log_probs_NK.detach().double().cpu().numpy()
    count, blank = len(scores_NK), scores_NK.shape[1] - 1
    labels_V = np.full(2 * len(symbols) + 1, blank)
    labels_V[1::2] = symbols
    repeats = int((labels_V[1::2][1:] == labels_V[1::2][:-1]).sum())
    if len(symbols) + repeats > count:
        raise UserError(
            f"{name}: {len(symbols)} symbols do not fit into {count} frames; each takes one, and two equal neighbours "
            "need a blank between them"
        )
    if np.isnan(scores_NK).any():
        raise UserError(f"{name}: log-probabilities are not numbers")
    if not symbols:
        return []
    path_N = _best_path(scores_NK[:, labels_V], labels_V, blank)
    aligned = []
    for index, symbol in enumerate(symbols):
        frames = np.flatnonzero(path_N == 2 * index + 1)
        aligned.append(AlignedSymbol(symbol, int(frames[0]), int(frames[-1]), float(scores_NK[frames, symbol].mean())))
    return aligned


def _best_path(scores_NV: np.ndarray, labels_V: np.ndarray, blank: int) -> np.ndarray:
    """(N,) the state of each frame."""
    count, states = scores_NV.shape
    # The blank between two different symbols may be skipped.
    skips_V = np.zeros(states, dtype=bool)
    skips_V[2:] = (labels_V[2:] != blank) & (labels_V[2:] != labels_V[:-2])
    best_V = np.full(states, -np.inf)
    # A path begins with the first blank or the first symbol, and ends with the last symbol or the last blank.
    best_V[:2] = scores_NV[0, :2]
    moves_NV = np.zeros((count, states), dtype=np.int8)
    for frame in range(1, count):
        candidates_3V = np.full((3, states), -np.inf)
        candidates_3V[0] = best_V
        candidates_3V[1, 1:] = best_V[:-1]
        candidates_3V[2, 2:] = np.where(skips_V[2:], best_V[:-2], -np.inf)
        # Of equal candidates the first is taken, which stays in its state.
        moves_NV[frame] = candidates_3V.argmax(0)
        best_V = candidates_3V.max(0) + scores_NV[frame]
    state = states - 1 if best_V[-1] >= best_V[-2] else states - 2
    path_N = np.empty(count, dtype=np.int64)
    for frame in range(count - 1, -1, -1):
        path_N[frame] = state
        state -= int(moves_NV[frame, state])
    return path_N
