"""Keyword spotting: where a sequence of symbols occurs, without decoding what surrounds it.

Shapes: N frames, K symbols and the blank, which is the last; V = 2S - 1 states: S symbols and the blanks between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...core.errors import UserError


@dataclass(frozen=True)
class KeywordMatch:
    """The frames of a keyword.

    Args:
        first: its first frame.
        last: its last frame.
        score: from 0 to 1: geometric mean over its symbols of their probability relative to the likeliest symbol.
    """

    first: int
    last: int
    score: float


def spot(log_probs_NK: Tensor, keyword: Sequence[int], threshold: float = 0.5) -> list[KeywordMatch]:
    """Occurrences of a keyword, in order of time; they do not overlap.

    Args:
        log_probs_NK: of one sample's frames.
        keyword: indices of its symbols, one or more.
        threshold: minimum score.

    Raises:
        UserError: the keyword has no symbols, or the threshold is not above 0.
    """
    if not len(keyword):
        raise UserError("a keyword needs at least one symbol")
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold must be above 0 and at most 1, got {threshold}")
    scores_NK = log_probs_NK.detach().double().cpu().numpy()
    if not len(scores_NK):
        return []
    ratios_NK = scores_NK - scores_NK.max(1, keepdims=True)
    totals_N, starts_N = _ends(ratios_NK, keyword)
    likeliest_N = scores_NK.argmax(1)
    used_N = np.zeros(len(scores_NK), dtype=bool)
    matches: list[KeywordMatch] = []
    for last in np.argsort(-totals_N, kind="stable").tolist():
        score = float(np.exp(totals_N[last] / len(keyword)))
        if score < threshold:
            break
        first, end = int(starts_N[last]), last
        # The best path has one frame per symbol; extend it while the outer symbols stay the likeliest.
        while first and likeliest_N[first - 1] == keyword[0]:
            first -= 1
        while end + 1 < len(scores_NK) and likeliest_N[end + 1] == keyword[-1]:
            end += 1
        if not used_N[first : end + 1].any():
            used_N[first : end + 1] = True
            matches.append(KeywordMatch(first, end, score))
    return sorted(matches, key=lambda match: match.first)


def _ends(ratios_NK: np.ndarray, keyword: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Score and first frame of the best path of the keyword that ends at each frame."""
    blank = ratios_NK.shape[1] - 1
    labels_V = np.full(2 * len(keyword) - 1, blank)
    labels_V[::2] = keyword
    skips_V = np.zeros(len(labels_V), dtype=bool)
    skips_V[2:] = (labels_V[2:] != blank) & (labels_V[2:] != labels_V[:-2])
    best_V = np.full(len(labels_V), -np.inf)
    from_V = np.zeros(len(labels_V), dtype=np.int64)
    totals_N, starts_N = np.empty(len(ratios_NK)), np.empty(len(ratios_NK), dtype=np.int64)
    for frame, row in enumerate(ratios_NK[:, labels_V]):
        candidates_3V = np.full((3, len(labels_V)), -np.inf)
        candidates_3V[0] = best_V
        candidates_3V[1, 1:] = best_V[:-1]
        candidates_3V[2, 2:] = np.where(skips_V[2:], best_V[:-2], -np.inf)
        chosen_V = candidates_3V.argmax(0)
        from_V = from_V[np.maximum(np.arange(len(labels_V)) - chosen_V, 0)]
        best_V = candidates_3V.max(0)
        # A keyword may begin at any frame, at score 0.
        best_V[0], from_V[0] = 0.0, frame
        best_V = best_V + row
        totals_N[frame], starts_N[frame] = best_V[-1], from_V[-1]
    return totals_N, starts_N
