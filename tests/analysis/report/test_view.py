from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from hrt_mm.analysis.describe.layout import on_meta, sample_of
from hrt_mm.analysis.report.style import panels
from hrt_mm.analysis.report.view import View, cells_of_levels, one_sample
from hrt_mm.core.grids import nested_order
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens


def hierarchy_of(axes: int) -> HierarchyConfig:
    levels = (
        Level(name="fine", dim=16, heads=2, depth=0, window=4, group=FixedGroups(stride=2)),
        Level(name="middle", dim=16, heads=2, depth=0, group=FixedGroups(stride=2)),
        Level(name="coarse", dim=16, heads=2, depth=0),
    )
    return HierarchyConfig(levels=levels)


def view_of(shape: tuple[int, ...]) -> tuple[View, dict[str, Spans]]:
    hierarchy = Hierarchy(hierarchy_of(len(shape)), len(shape))
    tokens = sample_of(shape, hierarchy)
    with torch.no_grad():
        pyramid = hierarchy(tokens.with_x(torch.randn(tokens.spans.total, 16)))
    tokenizer: Any = None
    return View(tokenizer, tokens.with_x(torch.randn(tokens.spans.total, 3))), cells_of_levels(pyramid)


def segments(view: View, cells: Spans) -> list[Any]:
    _, grid = panels(1, 1, width=2, height=2)
    axes = grid[0, 0]
    view.draw(axes)
    view.outline(axes, cells)
    (lines,) = [item for item in axes.collections if isinstance(item, LineCollection)]
    return [segment.tolist() for segment in lines.get_segments()]


def test_raster_puts_each_cell_in_its_place() -> None:
    hierarchy = on_meta(hierarchy_of(2), 2)
    tokens = sample_of((5, 7), hierarchy)
    order = nested_order((5, 7), hierarchy.blocks)
    tokenizer: Any = None
    picture = View(tokenizer, tokens).raster(order.float())
    np.testing.assert_array_equal(picture, np.arange(35).reshape(5, 7))


def test_levels_nest_and_borders_are_their_blocks() -> None:
    view, cells = view_of((6, 5))
    assert [len(spans) for spans in cells.values()] == [30, 9, 4]
    labels = view.raster(cells["middle"].ids)
    for row in range(6):
        for column in range(5):
            assert labels[row, column] == labels[row // 2 * 2, column // 2 * 2]
    assert len(np.unique(labels)) == 9
    lines = segments(view, cells["coarse"])
    inner = [line for line in lines if line in ([[4, row], [4, row + 1]] for row in range(6))]
    assert len(inner) == 6
    around, across, down = 2 * (6 + 5), 5, 6
    assert len(lines) == around + across + down


def test_frame_is_around_one_token_alone() -> None:
    view, cells = view_of((6, 5))
    _, grid = panels(1, 1, width=2, height=2)
    view.draw(grid[0, 0])
    view.frame(grid[0, 0], cells["middle"], 0)
    (lines,) = [item for item in grid[0, 0].collections if isinstance(item, LineCollection)]
    assert len(lines.get_segments()) == 8


def test_heat_leaves_grey_what_has_no_weight() -> None:
    view, _ = view_of((4, 4))
    _, grid = panels(1, 1, width=2, height=2)
    weights = torch.zeros(16)
    weights[:4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    view.draw(grid[0, 0])
    view.heat(grid[0, 0], weights)
    colors = np.asarray(grid[0, 0].images[-1].get_array())
    grey = (colors[..., :3] == 0.9).all(-1)
    assert grey.sum() == 12
    assert not grey[:2, :2].any()


@pytest.mark.parametrize("shape", [(9,), (3, 4, 5)], ids=str)
def test_other_axes_are_drawn(shape: tuple[int, ...]) -> None:
    view, cells = view_of(shape)
    _, grid = panels(1, 1, width=2, height=2)
    axes = grid[0, 0]
    view.draw(axes)
    view.outline(axes, cells["middle"])
    view.frame(axes, cells["coarse"], 0)
    view.heat(axes, torch.rand(view.tokens.spans.total))
    view.hide(axes, torch.rand(view.tokens.spans.total) < 0.5)
    assert axes.get_xlim() == (0, shape[-1])
    assert view.shape == (shape[-2:] if len(shape) > 1 else (1, 9))


def test_of_three_axes_the_middle_is_shown() -> None:
    view, _ = view_of((3, 4, 5))
    times = view.raster(view.tokens.coords_TC[:, 0])
    assert (times == 1).all()
    columns = view.raster(view.tokens.coords_TC[:, 2])
    np.testing.assert_array_equal(columns, np.tile(np.arange(5), (4, 1)))


@pytest.mark.parametrize("x", [torch.arange(6), torch.randn(6, 1), torch.randn(6, 3)], ids=["ids", "one", "several"])
def test_series_without_a_backdrop(x: torch.Tensor) -> None:
    tokenizer: Any = None
    view = View(tokenizer, Tokens.pack([x]))
    _, grid = panels(1, 1, width=2, height=2)
    view.draw(grid[0, 0])
    assert grid[0, 0].get_xlim() == (0, 6)


def test_one_sample_of_a_batch() -> None:
    parts = [torch.randn(length, 2) for length in (3, 0, 4)]
    starts = [torch.rand(length) < 0.5 for length in (3, 0, 4)]
    batch = Tokens.pack(parts, boundaries={"words": starts})
    for index in range(3):
        one = one_sample(batch, index)
        assert torch.equal(one.x, parts[index])
        assert torch.equal(one.boundaries["words"], starts[index])
        assert one.coords_TC.flatten().tolist() == list(range(len(parts[index])))
