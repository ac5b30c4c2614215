from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hrt_mm.metrics.edits import edit_distance


@pytest.mark.parametrize(
    ("result", "true", "count"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_known_distances(result: str, true: str, count: int) -> None:
    assert edit_distance(result, true) == count


def test_it_is_the_recursive_definition() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        one, other = (tuple(generator.integers(0, 3, generator.integers(0, 7)).tolist()) for _ in range(2))
        assert edit_distance(one, other) == _defined(one, other)


@cache
def _defined(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        _defined(one[1:], other) + 1, _defined(one, other[1:]) + 1, _defined(one[1:], other[1:]) + (one[0] != other[0])
    )
