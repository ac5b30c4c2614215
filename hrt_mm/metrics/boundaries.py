"""How well found boundaries agree with true ones, and cuts that know nothing, to compare with.

Places are counted in tokens, frames or seconds; the score is the one of speech segmentation: a found boundary is a hit
where a true one lies within a tolerance, and each boundary takes part in one hit at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import UserError

Places = Sequence[int] | Sequence[float] | np.ndarray
"""Where boundaries lie, in ascending order."""
_ROUNDING = 1e-9
"""Seconds that are a tolerance apart on paper may be a little more in binary."""


@dataclass(frozen=True)
class BoundaryScores:
    """Counts of boundaries, which add up over samples.

    A share of nothing is 1: with no boundary found none is wrong, with none to find none is missed.

    Args:
        hits: found boundaries that match a true one.
        found: boundaries that were found.
        true: boundaries that there are.
        apart: how far the two of each hit lie from each other, summed, in the unit of the places.
    """

    hits: int = 0
    found: int = 0
    true: int = 0
    apart: float = field(default=0.0, compare=False)

    def __add__(self, other: BoundaryScores) -> BoundaryScores:
        counts = self.hits + other.hits, self.found + other.found, self.true + other.true
        return BoundaryScores(*counts, self.apart + other.apart)

    @property
    def precision(self) -> float:
        """Share of the found boundaries that are true."""
        return self.hits / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the true boundaries that were found."""
        return self.hits / self.true if self.true else 1.0

    @property
    def error(self) -> float:
        """How far the two of a hit lie from each other on average; 0 where there is none."""
        return self.apart / max(1, self.hits)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / (self.found + self.true) if self.found + self.true else 1.0


def boundary_scores(found: Places, true: Places, tolerance: float = 0) -> BoundaryScores:
    """Compares the boundaries of one sample.

    The hits are as many pairs as can be made of one found and one true boundary each, no further apart than the
    tolerance. The place where every sample starts is no boundary: leave it out of both.

    Args:
        found: places of the boundaries that were found, ascending.
        true: places of those that there are, ascending.
        tolerance: how far apart a pair may lie, in the unit of the places.

    Raises:
        UserError: places are not in ascending order, or the tolerance is below 0.
    """
    if not tolerance >= 0:
        raise UserError(f"the tolerance must be 0 or more, got {tolerance}")
    ours, theirs = _ascending(found, "found"), _ascending(true, "true")
    hits = here = there = 0
    total = 0.0
    # All tolerances are alike, so that pairing the earliest two that fit never costs a later pair.
    while here < len(ours) and there < len(theirs):
        apart = ours[here] - theirs[there]
        fits = abs(apart) <= tolerance + _ROUNDING
        hits += fits
        total += abs(apart) * fits
        here += fits or apart < 0
        there += fits or apart > 0
    return BoundaryScores(hits, len(ours), len(theirs), total)


def even_cuts(count: int, length: int) -> np.ndarray:
    """(count,) places within ``length`` tokens that cut them into pieces of like length; never the first token."""
    _check_room(count, length)
    return np.arange(1, count + 1) * length // (count + 1)


def random_cuts(count: int, length: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) different places within ``length`` tokens, ascending, each as likely; never the first token."""
    _check_room(count, length)
    found: np.ndarray = np.sort(generator.choice(max(0, length - 1), count, replace=False)) + 1
    return found


def _ascending(places: Places, name: str) -> list[float]:
    values = np.asarray(places)
    if values.ndim != 1 or (np.diff(values) <= 0).any():
        raise UserError(f"the {name} boundaries must be one list of different places in ascending order")
    listed: list[float] = values.tolist()
    return listed


def _check_room(count: int, length: int) -> None:
    if not 0 <= count <= max(0, length - 1):
        raise UserError(f"{length} tokens have room for 0 to {max(0, length - 1)} cuts, not for {count}")
