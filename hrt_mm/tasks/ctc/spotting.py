"""Keyword spotting: where some symbols are said among others, without telling what else is.

Shapes: N steps, K symbols and the blank, which is the last; V = 2S - 1 states: S symbols and the blanks between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...core.errors import UserError


@dataclass(frozen=True)
class Spotted:
    """Where a keyword was found.

    Args:
        first: its first step.
        last: its last step.
        score: from 0 to 1: how likely its symbols are beside the likeliest of each step, the geometric mean a symbol.
    """

    first: int
    last: int
    score: float


def spot(log_probs_NK: Tensor, keyword: Sequence[int], threshold: float = 0.5) -> list[Spotted]:
    """Where a keyword is said, in order of time; places do not overlap.

    Args:
        log_probs_NK: of one sample's steps.
        keyword: its symbols, one or more.
        threshold: the least score.

    Raises:
        UserError: the keyword has no symbols, or the threshold is not over 0.
    """
    if not len(keyword):
        raise UserError("a keyword needs a symbol at least")
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold must be over 0 and no more than 1, got {threshold}")
    scores_NK = log_probs_NK.detach().double().cpu().numpy()
    if not len(scores_NK):
        return []
    ratios_NK = scores_NK - scores_NK.max(1, keepdims=True)
    totals_N, starts_N = _ends(ratios_NK, keyword)
    likeliest_N = scores_NK.argmax(1)
    taken_N = np.zeros(len(scores_NK), dtype=bool)
    found: list[Spotted] = []
    for last in np.argsort(-totals_N, kind="stable").tolist():
        score = float(np.exp(totals_N[last] / len(keyword)))
        if score < threshold:
            break
        first, end = int(starts_N[last]), last
        # The best way takes a step a symbol; the keyword lasts as long as its outer symbols are the likeliest.
        while first and likeliest_N[first - 1] == keyword[0]:
            first -= 1
        while end + 1 < len(scores_NK) and likeliest_N[end + 1] == keyword[-1]:
            end += 1
        if not taken_N[first : end + 1].any():
            taken_N[first : end + 1] = True
            found.append(Spotted(first, end, score))
    return sorted(found, key=lambda spotted: spotted.first)


def _ends(ratios_NK: np.ndarray, keyword: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each step, the best way to say the keyword that ends there: its score and its first step."""
    blank = ratios_NK.shape[1] - 1
    labels_V = np.full(2 * len(keyword) - 1, blank)
    labels_V[::2] = keyword
    skips_V = np.zeros(len(labels_V), dtype=bool)
    skips_V[2:] = (labels_V[2:] != blank) & (labels_V[2:] != labels_V[:-2])
    best_V = np.full(len(labels_V), -np.inf)
    from_V = np.zeros(len(labels_V), dtype=np.int64)
    totals_N, starts_N = np.empty(len(ratios_NK)), np.empty(len(ratios_NK), dtype=np.int64)
    for step, row in enumerate(ratios_NK[:, labels_V]):
        ways_3V = np.full((3, len(labels_V)), -np.inf)
        ways_3V[0] = best_V
        ways_3V[1, 1:] = best_V[:-1]
        ways_3V[2, 2:] = np.where(skips_V[2:], best_V[:-2], -np.inf)
        chosen_V = ways_3V.argmax(0)
        from_V = from_V[np.maximum(np.arange(len(labels_V)) - chosen_V, 0)]
        best_V = ways_3V.max(0)
        # A keyword may begin at any step, with nothing against it yet.
        best_V[0], from_V[0] = 0.0, step
        best_V = best_V + row
        totals_N[step], starts_N[step] = best_V[-1], from_V[-1]
    return totals_N, starts_N
