"""Boundary scores: by hand, against the best matching there is, and the cuts that they are compared with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from hrt_mm.core.errors import UserError
from hrt_mm.metrics.boundaries import BoundaryScores, boundary_scores, random_boundaries, uniform_boundaries


def figures(scores: BoundaryScores) -> tuple[float, float, float]:
    return scores.precision, scores.recall, scores.f1


def test_all_found() -> None:
    assert figures(boundary_scores([3, 5, 9], [3, 5, 9])) == (1, 1, 1)


def test_nothing_found_and_nothing_to_find() -> None:
    assert figures(boundary_scores([], [3])) == (1, 0, 0)
    assert figures(boundary_scores([3], [])) == (0, 1, 0)
    assert figures(boundary_scores([], [])) == (1, 1, 1)


def test_off_by_one_is_a_miss_unless_it_is_allowed() -> None:
    assert boundary_scores([4, 6, 10], [3, 5, 9]).hits == 0
    assert figures(boundary_scores([4, 6, 10], [3, 5, 9], 1)) == (1, 1, 1)


def test_shares_by_hand() -> None:
    scores = boundary_scores([1, 2, 3, 8], [2, 9, 20])
    assert (scores.hits, scores.predicted, scores.reference) == (1, 4, 3)
    assert figures(scores) == (1 / 4, 1 / 3, 2 / 7)
    assert boundary_scores([1, 2, 3, 8], [2, 9, 20], 1).hits == 2


def test_each_boundary_takes_part_in_one_hit() -> None:
    assert boundary_scores([4, 5, 6], [5], 1).hits == 1
    assert boundary_scores([5], [4, 5, 6], 1).hits == 1
    # The first found boundary must take the first true one, or the second stays alone.
    assert boundary_scores([2, 3], [1, 2], 1).hits == 2


def test_seconds_are_places_too() -> None:
    assert boundary_scores([0.10, 0.52], [0.115, 0.50], 0.02).hits == 2
    assert boundary_scores([0.10, 0.53], [0.115, 0.50], 0.02).hits == 1


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
def test_no_other_matching_has_more_hits(tolerance: int) -> None:
    generator = np.random.default_rng(tolerance)
    for _ in range(50):
        result, true = (np.sort(generator.choice(40, generator.integers(1, 15), replace=False)) for _ in range(2))
        fits = abs(result[:, None] - true[None]) <= tolerance
        rows, columns = linear_sum_assignment(fits, maximize=True)
        assert boundary_scores(result, true, tolerance).hits == fits[rows, columns].sum()


def test_counts_add_up_over_samples() -> None:
    total = boundary_scores([1, 2], [2]) + boundary_scores([5], [4, 5, 6])
    assert total == BoundaryScores(hits=2, predicted=3, reference=4)
    assert total.f1 == 4 / 7


@pytest.mark.parametrize("positions", [[3, 1], [2, 2], [[1], [2]]], ids=str)
def test_places_out_of_order_are_refused(positions: list[int]) -> None:
    with pytest.raises(UserError, match="predicted boundaries must be a 1-D list of distinct, ascending positions"):
        boundary_scores(positions, [1])
    with pytest.raises(UserError, match="reference boundaries must be"):
        boundary_scores([1], positions)


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(UserError, match="tolerance must be 0 or more"):
        boundary_scores([1], [1], tolerance)


def test_even_cuts_make_pieces_of_like_length() -> None:
    assert uniform_boundaries(3, 12).tolist() == [3, 6, 9]
    assert uniform_boundaries(0, 5).tolist() == uniform_boundaries(0, 0).tolist() == []
    for length in range(1, 40):
        for count in range(length):
            pieces = np.diff([0, *uniform_boundaries(count, length), length])
            assert pieces.min() >= 1
            assert pieces.max() - pieces.min() <= 1


def test_random_cuts_are_different_and_everywhere() -> None:
    generator = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(3000):
        cuts = random_boundaries(3, 10, generator)
        assert (np.diff(cuts) > 0).all()
        counts[cuts] += 1
    assert counts[0] == 0
    assert counts[1:].min() > 0.9 * 1000
    assert random_boundaries(9, 10, generator).tolist() == list(range(1, 10))
    assert random_boundaries(0, 0, generator).tolist() == []
    same = (random_boundaries(4, 50, np.random.default_rng(5)).tolist() for _ in range(2))
    assert next(same) == next(same)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_more_cuts_than_there_is_room_for(length: int) -> None:
    for cut in (uniform_boundaries, lambda count, length: random_boundaries(count, length, np.random.default_rng(0))):
        with pytest.raises(UserError, match=f"{length} tokens have room for 0 to"):
            cut(max(1, length), length)
