from __future__ import annotations

import json

import pytest
import torch

from hrt_mm.core.grids import nested_coords
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.extents import Extents


def grid(*shapes: tuple[int, ...], spacing: float = 1.0) -> Tokens:
    """Packed grids in nested order, whose first axis is spaced so."""
    coords = [nested_coords(shape, ((2,) * len(shape),)).float() for shape in shapes]
    spans = Spans.from_lengths([len(one) for one in coords])
    coords_TC = torch.cat(coords)
    coords_TC[:, 0] *= spacing
    return Tokens(torch.zeros(spans.total, 1), spans, coords_TC, grids=shapes)


def test_sequences_and_grids_are_measured_along_each_axis() -> None:
    sequences = Tokens.pack([torch.zeros(length, 1) for length in (3, 0, 7)])
    assert Extents.of(sequences) == Extents((3,), (7,), (1.0, 1.0))
    assert Extents.of(Tokens.pack([torch.zeros(1, 2)])) == Extents((1,), (1,), None)
    assert Extents.of(Tokens.pack([torch.zeros(0, 2)])) is None
    result = Extents.of(grid((5, 2, 3), (3, 4, 2), spacing=0.5))
    assert result == Extents((3, 2, 2), (5, 4, 3), (0.5, 0.5))


def test_joined_holds_both_and_survives_json() -> None:
    first, second = Extents((3, 4), (5, 6), (1.0, 1.5)), Extents((4, 2), (9, 3))
    both = first.joined(second)
    assert both == Extents((3, 2), (9, 6), (1.0, 1.5)) == second.joined(first)
    assert Extents.of_plain(json.loads(json.dumps(both.plain()))) == both
    assert Extents.of_plain(json.loads(json.dumps(second.plain()))) == second


def test_rates_that_were_trained_on_are_left_alone() -> None:
    trained = Extents((1,), (9,), (1.0, 2.0))
    assert [trained.nearest_spacing(spacing) for spacing in (1.0, 1.3, 2.0, 0.99)] == [None] * 4
    assert (trained.nearest_spacing(0.5), trained.nearest_spacing(3.0)) == (1.0, 2.0)
    assert Extents((1,), (1,)).nearest_spacing(0.1) is None


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((32, 48), None),
        ((30, 41), None),  # as many patches: the border is padded, as in training
        ((720, 1280), (32, 48)),
        ((1280, 720), (32, 48)),
        ((8, 8), (32, 48)),
        ((1, 4000), (32, 48)),
    ],
)
def test_a_model_of_one_size_gets_that_size(size: tuple[int, int], nearest: tuple[int, int] | None) -> None:
    assert Extents((10, 2, 3), (20, 2, 3)).nearest_size(size, 16) == nearest


@pytest.mark.parametrize("rows", [1, 7, 40, 333, 5000])
@pytest.mark.parametrize("columns", [1, 7, 40, 333, 5000])
def test_a_model_of_many_sizes_gets_one_of_them_with_the_same_proportions(rows: int, columns: int) -> None:
    trained = Extents((4, 6), (16, 20))
    nearest = trained.nearest_size((rows, columns), 4) or (rows, columns)
    counts = [-(-side // 4) for side in nearest]
    assert 4 <= counts[0] <= 16 and 6 <= counts[1] <= 20
    if 0.4 < rows / columns < 1.2:
        assert nearest[0] / nearest[1] == pytest.approx(rows / columns, rel=0.1)
