"""What a hierarchy gives: levels by name, pooled vectors, maps in raster order, and timm's feature conventions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.grids import nested_order
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

Configure = Callable[..., HierarchyConfig]
Build = Callable[..., Hierarchy]
Pack = Callable[..., Tokens]


def averaging(axes: int, strides: tuple[int, ...], window: int | None = None) -> Hierarchy:
    """No blocks, mean pooling, and merges that pass channels on: each level's token is its cells' mean direction."""
    levels = [
        {"name": f"level{index}", "dim": 4, "heads": 1, "depth": 0, "window": window if index == 0 else None}
        | ({"group": {"type": "fixed", "stride": strides[index]}} if index < len(strides) else {})
        for index in range(len(strides) + 1)
    ]
    levels = [level | {"dim": 8} for level in levels]
    model = Hierarchy(HierarchyConfig.model_validate({"levels": levels}), axes).double()
    for transition in model.transitions:
        transition.merge.weight.data = torch.eye(8, dtype=torch.float64)
    return model


@pytest.mark.parametrize(
    ("shape", "strides", "window"),
    [
        ((5, 7), (2, 2), 8),
        ((1, 9), (2, 2), None),
        ((4, 4), (2,), 4),
        ((3, 5, 4), (2, 2), None),
        ((11,), (2, 3), None),
        ((6, 6), (3, 2), 6),
    ],
    ids=str,
)
def test_maps_are_in_raster_order(shape: tuple[int, ...], strides: tuple[int, ...], window: int | None) -> None:
    axes = len(shape)
    model = averaging(axes, strides, window)
    raster = torch.randn(*shape, 8, dtype=torch.float64)
    cells = raster.flatten(0, -2)
    if axes == 1:
        tokens = Tokens.pack([cells])
    else:
        order = nested_order(shape, model.blocks)
        position = torch.stack(torch.unravel_index(order, shape), 1).float()
        tokens = Tokens(cells[order], Spans.from_lengths([len(cells)]), position, (shape,))
    pyramid = model(tokens)
    want = raster
    for index, name in enumerate(pyramid.names):
        result = pyramid.maps(name)[0]
        assert result.shape == (8, *want.shape[:-1])
        norm = torch.nn.functional.rms_norm(want, (8,), eps=1e-6)
        torch.testing.assert_close(result.movedim(0, -1), norm)
        if index < len(strides):
            # A token is what the level above is made of before its norm, and the merge stands behind one.
            want = torch.nn.functional.rms_norm(pooled_grid(want, strides[index]), (8,), eps=1e-6)


def pooled_grid(grid: Tensor, stride: int) -> Tensor:
    """Means of blocks; a border block has fewer cells."""
    coarse = [math.ceil(size / stride) for size in grid.shape[:-1]]
    out = torch.zeros(*coarse, grid.shape[-1], dtype=grid.dtype)
    for flat in range(math.prod(coarse)):
        position = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), tuple(coarse)))
        block = grid[tuple(slice(index * stride, (index + 1) * stride) for index in position)]
        out[position] = block.flatten(0, -2).mean(0)
    return out


def test_maps_of_mixed_sizes(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure(axes=2), 2)
    maps = model(pack([(5, 7), (1, 1), (4, 4)], model)).maps(0)
    assert [tuple(one.shape) for one in maps] == [(12, 5, 7), (12, 1, 1), (12, 4, 4)]


@pytest.mark.parametrize(("axes", "shape"), [(1, (13,)), (2, (5, 7)), (3, (3, 4, 2))])
def test_forward_intermediates(
    axes: int, shape: tuple[int, ...], configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(axes=axes), axes)
    tokens = pack([shape, shape], model)
    pyramid, maps = model.forward_intermediates(tokens)
    assert isinstance(pyramid, Pyramid)
    assert [one.shape[:2] for one in maps] == [(2, 12), (2, 16), (2, 12)]
    assert maps[0].shape[2:] == shape
    mid = tuple(math.ceil(size / 3) for size in shape)
    assert maps[1].shape[2:] == mid
    assert maps[2].shape[2:] == tuple(math.ceil(size / 2) for size in mid)
    for index, one in enumerate(maps):
        torch.testing.assert_close(one, torch.stack(pyramid.maps(index)))
    rows = model.forward_intermediates(tokens, output_fmt="NLC", intermediates_only=True)
    assert isinstance(rows, list)
    torch.testing.assert_close(rows[1], maps[1].flatten(2).transpose(1, 2))


def test_forward_intermediates_chooses_levels(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure(axes=2), 2)
    tokens = pack([(5, 7)], model)

    def channels(indices: int | list[int] | None) -> list[int]:
        result = model.forward_intermediates(tokens, indices, intermediates_only=True)
        assert isinstance(result, list)
        return [one.shape[1] for one in result]

    assert channels(None) == [12, 16, 12]
    assert channels(2) == [16, 12]
    assert channels([1]) == [16]
    assert channels([-1, 0]) == [12, 12]
    assert channels([]) == []
    for wrong in (0, 4, -1):
        with pytest.raises(ConfigError, match=f"the last {wrong} levels, but there are 3; give 1 to 3, or a list"):
            channels(wrong)
    with pytest.raises(ConfigError, match="level 3 is out of range; there are 3: fine, mid, coarse"):
        channels([3])
    with pytest.raises(ConfigError, match="unknown output_fmt 'NHWC'; one of NCHW, NLC"):
        model.forward_intermediates(tokens, output_fmt="NHWC")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"level 'fine' has maps of different shapes .*; use Pyramid.maps\(\)"):
        model.forward_intermediates(pack([(5, 7), (4, 4)], model))


@pytest.mark.parametrize("axes", [1, 2])
def test_feature_info(axes: int, configure: Configure) -> None:
    info = Hierarchy(configure(axes=axes), axes).feature_info
    assert [one["num_chs"] for one in info] == [12, 16, 12]
    assert [one["reduction"] for one in info] == [1, 3, 6]
    assert [one["module"] for one in info] == ["stages.0", "stages.1", "stages.2"]


def test_levels_by_name_and_place(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure())
    pyramid = model(pack([(9,), (4,)], model))
    assert pyramid.names == ("fine", "mid", "coarse")
    assert pyramid["mid"] is pyramid[1] is pyramid[-2]
    torch.testing.assert_close(pyramid.pooled(), pyramid.pooled("coarse"))
    for wrong in ("words", 3, -4):
        with pytest.raises(UserError, match=f"unknown level {wrong!r}; one of fine, mid, coarse"):
            pyramid[wrong]


def test_pooled_is_the_mean_of_each_sample(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure())
    pyramid = model(pack([(9,), (0,), (4,)], model))
    for name in pyramid.names:
        parts = pyramid[name].split()
        want = torch.stack([part.mean(0) if len(part) else torch.zeros(part.shape[1]).double() for part in parts])
        torch.testing.assert_close(pyramid.pooled(name), want)


def test_every_level_is_normed(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure())
    pyramid = model(pack([(9,), (4,)], model))
    for name in pyramid.names:
        assert (pyramid[name].x.square().mean(-1) - 1).abs().max() < 1e-3


def test_coordinates_of_coarse_tokens_are_the_means_of_their_groups(
    configure: Configure, build: Build, pack: Pack
) -> None:
    for pool in ("mean", "select"):
        model = build(configure(pool, "learned"))
        pyramid = model(pack([(9,), (4,)], model))
        for fine, coarse in (("fine", "mid"), ("mid", "coarse")):
            parts = pyramid.groups[fine].split(pyramid[fine].coords_TC)
            torch.testing.assert_close(
                pyramid[coarse].coords_TC,
                torch.stack([part[0] if pool == "select" else part.mean(0) for part in parts]),
            )
