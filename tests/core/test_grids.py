from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.core.grids import (
    Sizes,
    block_lengths,
    block_positions,
    coarse_blocks,
    coarse_shape,
    nested_coords,
    nested_order,
)

CASES: list[tuple[Sizes, tuple[Sizes, ...]]] = [
    ((1,), ()),
    ((7,), ()),
    ((13,), ((2,), (6,))),
    ((1, 1), ((2, 2), (4, 4))),
    ((1, 9), ((2, 2), (4, 8))),
    ((8, 8), ((2, 2), (4, 4))),
    ((7, 5), ((2, 2), (4, 4), (8, 8))),
    ((5, 11), ((1, 2), (3, 4))),
    ((3, 3), ((16, 16),)),
    ((3, 5, 7), ((1, 2, 2), (2, 4, 4))),
    ((4, 4, 4), ((2, 2, 2),)),
]
IDS = [f"{'x'.join(map(str, shape))}-{len(blocks)}blocks" for shape, blocks in CASES]


def by_hand(shape: Sizes, blocks: tuple[Sizes, ...]) -> list[int]:
    """The definition: sort the cells by their block at every depth, from the largest, then by place."""
    cells = list(itertools.product(*map(range, shape)))
    sizes = [*reversed(blocks), (1,) * len(shape)]
    order = sorted(
        range(len(cells)), key=lambda index: [c // s for size in sizes for c, s in zip(cells[index], size, strict=True)]
    )
    return order


@pytest.mark.parametrize(("shape", "blocks"), CASES, ids=IDS)
def test_order_follows_the_definition(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    order = nested_order(shape, blocks)
    assert order.dtype == torch.int64
    assert order.tolist() == by_hand(shape, blocks)


@pytest.mark.parametrize(("shape", "blocks"), CASES, ids=IDS)
def test_coords_are_those_of_the_cells(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    cells = torch.tensor(list(itertools.product(*map(range, shape))), dtype=torch.float32)
    coords = nested_coords(shape, blocks)
    assert coords.dtype == torch.float32
    assert coords.shape == (math.prod(shape), len(shape))
    assert torch.equal(coords, cells[nested_order(shape, blocks)])


@pytest.mark.parametrize(("shape", "blocks"), CASES, ids=IDS)
def test_every_block_is_one_run(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    coords = nested_coords(shape, blocks).long()
    for size in [*blocks, (1,) * len(shape), shape]:
        block = coords // torch.tensor(size)
        lengths = block_lengths(shape, blocks, size)
        runs, counts = torch.unique_consecutive(block, dim=0, return_counts=True)
        assert torch.equal(lengths, counts)
        assert len(torch.unique(runs, dim=0)) == len(runs), "a block was met in two places"
        assert len(lengths) == math.prod(coarse_shape(shape, size))


@pytest.mark.parametrize(("shape", "blocks"), CASES, ids=IDS)
def test_blocks_come_in_the_order_of_the_coarse_grid(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    coords = nested_coords(shape, blocks).long()
    for size in blocks:
        runs = torch.unique_consecutive(coords // torch.tensor(size), dim=0)
        coarse = nested_coords(coarse_shape(shape, size), coarse_blocks(blocks, size)).long()
        assert torch.equal(runs, coarse)


@pytest.mark.parametrize(("shape", "blocks"), CASES, ids=IDS)
def test_slots_are_places_inside_the_block(shape: Sizes, blocks: tuple[Sizes, ...]) -> None:
    coords = nested_coords(shape, blocks).long()
    for size in [*blocks, shape]:
        expected = [
            torch.arange(math.prod(size)).reshape(size)[tuple(c % s for c, s in zip(cell, size, strict=True))]
            for cell in coords.tolist()
        ]
        assert block_positions(shape, blocks, size).tolist() == [int(index) for index in expected]


def test_no_blocks_is_raster() -> None:
    assert nested_order((3, 4), ()).tolist() == list(range(12))


def test_a_row_of_2x2_groups() -> None:
    assert nested_order((2, 4), ((2, 2),)).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_missing_border_cells_leave_their_slots_empty() -> None:
    # The right block of a 2x3 grid has only its left column: places 0 and 2 of 4.
    assert block_positions((2, 3), ((2, 2),), (2, 2)).tolist() == [0, 1, 2, 3, 0, 2]
    assert block_lengths((2, 3), ((2, 2),), (2, 2)).tolist() == [4, 2]


def test_results_are_cached() -> None:
    assert nested_order((6, 6), ((2, 2),)) is nested_order((6, 6), ((2, 2),))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nested_order((0, 4), ()), r"1 or more cells along each axis, got \(0, 4\)"),
        (lambda: nested_order((), ()), "1 or more cells"),
        (lambda: nested_order((4, 4), ((2,),)), r"block \(2,\) does not fit the grid \(4, 4\): it needs 2 sizes"),
        (lambda: nested_order((4, 4), ((2, 0),)), "sizes of 1 or more"),
        (lambda: nested_order((9, 9), ((2, 2), (3, 4))), r"block \(3, 4\) is not a multiple of \(2, 2\)"),
        (lambda: block_lengths((8, 8), ((2, 2),), (4, 4)), r"\(4, 4\) is not one of the nested blocks"),
        (lambda: block_positions((8, 8), ((2, 2),), (4, 4)), r"\(4, 4\) is not one of the nested blocks"),
        (lambda: coarse_shape((8, 8), (2,)), "needs 2 sizes"),
        (lambda: coarse_blocks(((3, 3),), (2, 2)), r"block \(3, 3\) is not a multiple of \(2, 2\)"),
    ],
)
def test_bad_sizes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
