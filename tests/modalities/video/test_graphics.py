"""Rendered graphics: tiles, and what lies over a picture."""

from __future__ import annotations

import numpy as np
import pytest

from hrt_modalities.video.graphics import Overlay, tiles

SIZE = (32, 48)


def overlay(kind: str) -> Overlay:
    """The first of a kind."""
    return next(made for seed in range(100) if (made := Overlay(SIZE, np.random.default_rng(seed))).kind == kind)


def test_tiles_are_flat_and_have_hard_edges() -> None:
    for seed in range(20):
        picture = tiles(SIZE, np.random.default_rng(seed))
        assert picture.shape == (*SIZE, 3) and picture.min() >= 0 and picture.max() <= 255
        assert 2 <= len(np.unique(picture.reshape(-1, 3), axis=0)) <= 16 * 8


@pytest.mark.parametrize("kind", ["counter", "dial", "progress"])
def test_an_overlay_changes_its_rectangle_alone(kind: str) -> None:
    made, picture = overlay(kind), np.full((*SIZE, 3), 100.0)
    (top, left), (height, width) = made.corner, made.shape
    early, late = (made.over(picture, share * made.period) for share in (0.05, 0.7))
    assert (picture == 100).all()
    assert (early != late).any()
    outside = np.ones(SIZE, dtype=bool)
    outside[top : top + height, left : left + width] = False
    assert (early[outside] == 100).all() and (late[outside] == 100).all()


def test_a_dial_fills_and_then_empties() -> None:
    dial, picture = overlay("dial"), np.zeros((*SIZE, 3))
    (top, left), (height, width) = dial.corner, dial.shape

    def lit(time: float) -> float:
        part = dial.over(picture, time * dial.period)[top : top + height, left : left + width]
        row, column = (np.arange(length) - (length - 1) / 2 for length in (height, width))
        inside = np.hypot(row[:, None], column) <= height / 2
        return float((part[inside] == dial.colours[1]).all(-1).mean())

    assert lit(0.01) < 0.2 < lit(0.5) < 0.8 < lit(0.99)
    assert lit(1.5) == pytest.approx(1 - lit(0.5))


def test_the_same_seed_gives_the_same_graphics() -> None:
    first, second = (Overlay(SIZE, np.random.default_rng(3)) for _ in range(2))
    picture = np.zeros((*SIZE, 3))
    assert np.array_equal(first.over(picture, 0.3), second.over(picture, 0.3))
    left, right = (tiles(SIZE, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(left, right)
