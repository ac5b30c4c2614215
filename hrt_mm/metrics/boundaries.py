"""Agreement of predicted boundaries with reference ones, and uninformed baselines to compare with.

Positions may be tokens, frames or seconds. Scores are those of speech segmentation: a predicted boundary is a hit if a
reference boundary lies within a tolerance, and each boundary is part of at most one hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import UserError

Positions = Sequence[int] | Sequence[float] | np.ndarray
"""Ascending positions of boundaries."""
_ROUNDING = 1e-9
"""Slack for decimal seconds, whose distance may exceed the tolerance by a rounding error."""


@dataclass(frozen=True)
class BoundaryScores:
    """Counts of boundaries, which add up over samples.

    Precision without predictions and recall without references are 1: nothing is wrong, or nothing is missed.

    Args:
        hits: predicted boundaries that match a reference one.
        predicted: number of predicted boundaries.
        reference: number of reference boundaries.
        distance: sum of the distances between the two boundaries of each hit, in the unit of the positions.
    """

    hits: int = 0
    predicted: int = 0
    reference: int = 0
    distance: float = field(default=0.0, compare=False)

    def __add__(self, other: BoundaryScores) -> BoundaryScores:
        return BoundaryScores(
            self.hits + other.hits,
            self.predicted + other.predicted,
            self.reference + other.reference,
            self.distance + other.distance,
        )

    @property
    def precision(self) -> float:
        """Fraction of the predicted boundaries that are hits."""
        return self.hits / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Fraction of the reference boundaries that are hit."""
        return self.hits / self.reference if self.reference else 1.0

    @property
    def error(self) -> float:
        """Mean distance between the two boundaries of a hit; 0 without hits."""
        return self.distance / max(1, self.hits)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.predicted + self.reference
        return 2 * self.hits / total if total else 1.0


def boundary_scores(predicted: Positions, reference: Positions, tolerance: float = 0) -> BoundaryScores:
    """Compares the boundaries of one sample.

    Hits are a maximum matching of predicted and reference boundaries that are at most ``tolerance`` apart. The start of
    a sample is not a boundary: leave it out of both.

    Args:
        predicted: predicted positions, ascending.
        reference: reference positions, ascending.
        tolerance: maximum distance of a hit, in the unit of the positions.

    Raises:
        UserError: positions are not ascending, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise UserError(f"the tolerance must be 0 or more, got {tolerance}")
    ours, theirs = _ascending(predicted, "predicted"), _ascending(reference, "reference")
    hits = i = j = 0
    total = 0.0
    # With one tolerance for all, matching the earliest two that fit never costs a later match.
    while i < len(ours) and j < len(theirs):
        offset = ours[i] - theirs[j]
        fits = abs(offset) <= tolerance + _ROUNDING
        hits += fits
        total += abs(offset) * fits
        i += fits or offset < 0
        j += fits or offset > 0
    return BoundaryScores(hits, len(ours), len(theirs), total)


def uniform_boundaries(count: int, length: int) -> np.ndarray:
    """(count,) positions that split ``length`` tokens into pieces of nearly equal length; never the first token."""
    _check_room(count, length)
    return np.arange(1, count + 1) * length // (count + 1)


def random_boundaries(count: int, length: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) distinct ascending positions, drawn uniformly from ``length`` tokens; never the first token."""
    _check_room(count, length)
    positions: np.ndarray = np.sort(generator.choice(max(0, length - 1), count, replace=False)) + 1
    return positions


def _ascending(positions: Positions, name: str) -> list[float]:
    values = np.asarray(positions)
    if values.ndim != 1 or (np.diff(values) <= 0).any():
        raise UserError(f"the {name} boundaries must be a 1-D list of distinct, ascending positions")
    as_list: list[float] = values.tolist()
    return as_list


def _check_room(count: int, length: int) -> None:
    if not 0 <= count <= max(0, length - 1):
        raise UserError(f"{length} tokens have room for 0 to {max(0, length - 1)} boundaries, not for {count}")
