"""Dense batches, which exported graphs consist of, give what packed tokens give."""

from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor

from hrt_mm.core.dense import DenseTokens, dense_grids, dense_sequences
from hrt_mm.core.grids import nested_coords
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import CrossScale, FixedGroups, HierarchyConfig, Level
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.tokens import Tokens

LENGTHS = (1, 4, 9, 21)


def trained(config: HierarchyConfig, axes: int = 1) -> Hierarchy:
    """A hierarchy whose branches and gates are open."""
    torch.manual_seed(0)
    hierarchy = Hierarchy(config, axes).eval()
    for parameter in hierarchy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return hierarchy


def assert_equal(dense: Pyramid, packed: Pyramid) -> None:
    for level in packed.names:
        tokens = dense[level]
        assert isinstance(tokens, DenseTokens)
        valid_T = tokens.spans.valid_T
        rows = tokens.x if valid_T is None else tokens.x[valid_T]
        torch.testing.assert_close(rows, packed[level].x, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(dense.pooled(level), packed.pooled(level), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "max", "conv", "attention", "haar", "select"])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_sequences_of_different_lengths(pool: str, causal: bool) -> None:
    kind: Literal["sliding", "shifted"] = "sliding" if causal else "shifted"
    fine = Level(
        name="fine", dim=8, heads=2, kv_heads=1, window=6, window_type=kind, group=FixedGroups(stride=4), pool=pool
    )
    middle = Level(
        name="middle",
        dim=8,
        heads=2,
        window=3,
        window_type="sliding" if causal else "block",
        group=FixedGroups(stride=2),
        pool=pool,
    )
    levels = (fine, middle, Level(name="coarse", dim=8, depth=1, heads=2))
    config = HierarchyConfig(levels=levels, causal=causal, top_down=True, cross_scale=CrossScale(up=True, down=True))
    hierarchy = trained(config)
    samples = [torch.randn(length, 8) for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=7.0)
    dense = hierarchy(dense_sequences(padded, torch.tensor(LENGTHS), 8))
    assert_equal(dense, hierarchy(Tokens.pack(samples)))


@pytest.mark.parametrize(("shape", "window"), list(product([(8, 8), (7, 5), (1, 3)], [None, 4, 8])))
@torch.no_grad()
def test_grids_of_one_shape(shape: tuple[int, int], window: int | None) -> None:
    fine = Level(name="fine", dim=8, heads=2, window=window, group=FixedGroups(stride=2), pool="conv")
    levels = (fine, Level(name="coarse", dim=8, depth=1, heads=2))
    hierarchy = trained(HierarchyConfig(levels=levels, cross_scale=CrossScale(up=True, down=True)), axes=2)
    maps = torch.randn(2, *shape, 8)
    coords = [torch.arange(side).float() for side in shape]
    dense = hierarchy(dense_grids(maps, coords, hierarchy.blocks, (2, 2)))
    assert_equal(dense, hierarchy(packed_grids(maps, hierarchy)))


@torch.no_grad()
def test_grids_on_three_axes_with_a_window_beyond_the_grid() -> None:
    fine = Level(name="fine", dim=12, heads=2, window=(2, 2, 2), group=FixedGroups(stride=(1, 2, 2)), pool="attention")
    coarse = Level(name="coarse", dim=12, heads=2, window=(4, 8, 8))
    hierarchy = trained(HierarchyConfig(levels=(fine, coarse)), axes=3)
    maps = torch.randn(2, 3, 3, 2, 12)
    coords = [torch.arange(side).float() for side in maps.shape[1:-1]]
    tokens = dense_grids(maps, coords, hierarchy.blocks, (1, 2, 2))
    # The window of 4x16x16 cells is clipped to the grid.
    assert tokens.spans.total == 2 * 4 * 4 * 2
    assert_equal(hierarchy(tokens), hierarchy(packed_grids(maps, hierarchy)))


def packed_grids(maps: Tensor, hierarchy: Hierarchy) -> Tokens:
    shape = tuple(maps.shape[1:-1])
    order = nested_coords(shape, hierarchy.blocks)
    index = torch.zeros(len(order), dtype=torch.long)
    for axis, side in enumerate(shape):
        index = index * side + order[:, axis].long()
    samples = [cells.flatten(0, -2)[index] for cells in maps]
    packed = Tokens.pack(samples, coords=[order] * len(maps))
    return Tokens(packed.x, packed.spans, packed.coords_TC, grids=(shape,) * len(maps))
