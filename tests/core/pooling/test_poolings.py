"""Every pooling of the registry meets every contract."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hrt_mm.core.grids import nested_order
from hrt_mm.core.levels import FixedGroups, Level
from hrt_mm.core.plan import GridPlan, Groups, LevelPlan
from hrt_mm.core.pooling import POOLINGS, AttentionPooling, MeanPooling, Pooling, PoolingGroups, PoolingSpec, base
from hrt_mm.core.segments import segment_mean
from hrt_mm.core.spans import Spans

DIM = 8
LENGTHS = [[3, 1, 4], [4, 4, 4], [1, 1], [7], [2, 9, 4, 1]]
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda part: part.mean(0),
    "max": lambda part: part.amax(0),
    "select": lambda part: part[0],
    "haar": lambda part: part.sum(0) / math.sqrt(len(part)),
}
IDS = ["-".join(map(str, lengths)) for lengths in LENGTHS]


@pytest.fixture(params=sorted(POOLINGS))
def name(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


def make(name: str, group_size: int = 4, dtype: torch.dtype = torch.float64, axes: int = 1) -> Pooling:
    """A pooling whose parameters are all off their starting values: branches start at zero."""
    pooling = POOLINGS[name](PoolingSpec(DIM, 2, group_size, axes))
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return pooling.to(dtype)


def view(lengths: list[int], group_size: int = 4) -> PoolingGroups:
    spans = Spans.from_lengths(lengths)
    groups = Groups(spans, Spans.from_lengths([len(lengths)]), group_size)
    coords = torch.arange(spans.total, dtype=torch.float32)[:, None]
    return PoolingGroups(spans, lambda: groups.position_in_group_T, group_size, spans.uniform == group_size, coords)


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
def test_groups_do_not_depend_on_each_other(name: str, lengths: list[int]) -> None:
    pooling = make(name)
    groups = view(lengths)
    x = torch.randn(groups.spans.total, DIM, dtype=torch.float64)
    together = pooling(x, groups)
    assert together.shape == (len(lengths), pooling.width)
    for row, part, length in zip(together, groups.spans.split(x), lengths, strict=True):
        torch.testing.assert_close(pooling(part, view([length]))[0], row)


def test_ragged_equals_uniform(name: str) -> None:
    pooling = make(name)
    x = torch.randn(12, DIM, dtype=torch.float64, requires_grad=True)
    odd = torch.randn(3, DIM, dtype=torch.float64)
    uniform = pooling(x, view([4, 4, 4]))
    ragged = pooling(torch.cat([x, odd]), view([4, 4, 4, 3]))[:3]
    torch.testing.assert_close(ragged, uniform)
    weight = torch.randn_like(uniform)
    (one,) = torch.autograd.grad((uniform * weight).sum(), x)
    (two,) = torch.autograd.grad((ragged * weight).sum(), x)
    torch.testing.assert_close(two, one)


@pytest.mark.parametrize("lengths", [[3, 1, 4], [4, 4], [0, 2, 0], [6, 1]], ids=str)
def test_gradients(name: str, lengths: list[int]) -> None:
    pooling = make(name)
    groups = view(lengths)
    x = torch.randn(groups.spans.total, DIM, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: pooling(x, groups), x)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    pooling = make(name)
    groups = view([3, 1, 4])
    x = torch.randn(8, DIM, dtype=torch.float64, requires_grad=True)
    pooling(x, groups).square().sum().backward()
    assert x.grad is not None
    for key, parameter in pooling.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("lengths", [[0, 3, 0], [0, 0], [0]], ids=str)
def test_empty_groups_give_zeros(name: str, lengths: list[int]) -> None:
    pooling = make(name)
    groups = view(lengths)
    pooled = pooling(torch.randn(groups.spans.total, DIM, dtype=torch.float64) + 1, groups)
    assert pooled.shape == (len(lengths), pooling.width)
    for row, length in zip(pooled, lengths, strict=True):
        assert bool(row.eq(0).all()) == (length == 0)


def test_no_groups_at_all(name: str) -> None:
    pooling = make(name)
    assert pooling(torch.zeros(0, DIM, dtype=torch.float64), view([])).shape == (0, pooling.width)


def test_unpool_gives_one_row_a_token(name: str) -> None:
    pooling = make(name)
    spans = Spans.from_lengths([3, 1, 4])
    rows = torch.randn(3, DIM, dtype=torch.float64)
    back = pooling.unpool(rows, spans)
    assert back.shape == (8, DIM)
    for part, row in zip(spans.split(back), rows, strict=True):
        torch.testing.assert_close(part, part[:1].expand_as(part))
        assert torch.nn.functional.cosine_similarity(part[0], row, dim=0) > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_near(name: str, dtype: torch.dtype) -> None:
    pooling = make(name)
    groups = view([3, 1, 4])
    x = torch.randn(8, DIM, dtype=torch.float64)
    want = pooling(x, groups)
    got = pooling.to(dtype)(x.to(dtype), groups)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, atol=6e-2, rtol=6e-2)


def test_constant_tokens_pool_to_themselves() -> None:
    x = torch.ones(7, DIM) * torch.arange(DIM)
    groups = view([4, 3])
    for name in ("mean", "max", "select"):
        torch.testing.assert_close(make(name, dtype=torch.float32)(x, groups), x[:2])


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
def test_each_reduction_is_what_its_name_says(lengths: list[int]) -> None:
    groups = view(lengths)
    x = torch.randn(groups.spans.total, DIM, dtype=torch.float64)
    parts = groups.spans.split(x)
    for name, one in REDUCTIONS.items():
        torch.testing.assert_close(make(name)(x, groups), torch.stack([one(part) for part in parts]), msg=name)


def test_attention_starts_as_the_mean() -> None:
    pooling = AttentionPooling(PoolingSpec(DIM, 2, 4))
    groups = view([3, 1, 4])
    x = torch.randn(8, DIM)
    torch.testing.assert_close(pooling(x, groups), MeanPooling(PoolingSpec(DIM, 2, 4))(x, groups))


def test_attention_knows_where_tokens_lie_but_not_where_the_group_lies() -> None:
    pooling = make("attention")
    x = torch.randn(8, DIM, dtype=torch.float64)
    here = view([3, 1, 4])
    there = PoolingGroups(here.spans, here.position_in_group_T, here.group_size, here.full, here.coords_TC + 40)
    wide = PoolingGroups(here.spans, here.position_in_group_T, here.group_size, here.full, here.coords_TC * 3)
    torch.testing.assert_close(pooling(x, there), pooling(x, here), atol=1e-5, rtol=1e-5)
    assert (pooling(x, wide) - pooling(x, here)).abs().max() > 1e-3


def by_hand_conv(x: Tensor, lengths: list[int], group_size: int) -> Tensor:
    """Tokens that share a tap are averaged; a missing tap is zero."""
    rows = []
    for part in Spans.from_lengths(lengths).split(x):
        shared: list[list[Tensor]] = [[] for _ in range(group_size)]
        for index, token in enumerate(part):
            shared[index * group_size // len(part) if len(part) > group_size else index].append(token)
        rows.append(torch.cat([torch.stack(s).mean(0) if s else torch.zeros(DIM, dtype=x.dtype) for s in shared]))
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
def test_conv_lays_tokens_side_by_side(lengths: list[int]) -> None:
    groups = view(lengths)
    x = torch.randn(groups.spans.total, DIM, dtype=torch.float64)
    torch.testing.assert_close(make("conv")(x, groups), by_hand_conv(x, lengths, 4))


@pytest.mark.parametrize(
    ("shapes", "blocks", "stride"),
    [
        (((3, 5),), ((2, 2),), (2, 2)),
        (((3, 5), (1, 1), (4, 4)), ((2, 2), (4, 4)), (4, 4)),
        (((4, 4), (4, 4)), ((2, 2),), (2, 2)),
        (((1, 1), (1, 1)), ((2, 2),), (2, 2)),
        (((3, 3, 3),), ((2, 2, 2),), (2, 2, 2)),
        (((2, 7),), ((1, 2), (2, 4)), (2, 4)),
    ],
    ids=str,
)
def test_conv_on_grids_leaves_the_place_of_a_missing_cell_empty(
    shapes: tuple[tuple[int, ...], ...], blocks: tuple[tuple[int, ...], ...], stride: tuple[int, ...]
) -> None:
    plan = grid_plan(shapes, blocks, stride)
    groups = plan.fixed_groups(FixedGroups(stride=stride))
    group_size = math.prod(stride)
    spans = groups.spans
    pooling = make("conv", group_size)
    raster = [torch.randn(*shape, DIM, dtype=torch.float64) for shape in shapes]
    x = torch.cat(
        [grid.flatten(0, -2)[nested_order(shape, blocks)] for grid, shape in zip(raster, shapes, strict=True)]
    )
    pooled = pooling(
        x,
        PoolingGroups(
            spans,
            lambda: groups.position_in_group_T,
            group_size,
            spans.uniform == group_size,
            torch.zeros(len(x), len(stride)),
        ),
    )
    at = 0
    inner = tuple(block for block in blocks if math.prod(block) < group_size)
    for grid, shape in zip(raster, shapes, strict=True):
        size = [-(-cells // step) * step for cells, step in zip(shape, stride, strict=True)]
        padded = torch.zeros(*size, DIM, dtype=torch.float64)
        padded[tuple(slice(cells) for cells in shape)] = grid
        coarse = tuple(cells // step for cells, step in zip(size, stride, strict=True))
        divided = tuple(
            tuple(b // s for b, s in zip(block, stride, strict=True))
            for block in blocks
            if math.prod(block) > group_size
        )
        for cell in nested_order(coarse, divided).tolist():
            position = torch.unravel_index(torch.tensor(cell), coarse)
            corner = [int(index) * step for index, step in zip(position, stride, strict=True)]
            block = padded[tuple(slice(low, low + step) for low, step in zip(corner, stride, strict=True))]
            want = block.flatten(0, -2)[nested_order(stride, inner)].flatten()
            torch.testing.assert_close(pooled[at], want)
            at += 1
    assert at == len(pooled)


def grid_plan(
    shapes: tuple[tuple[int, ...], ...], blocks: tuple[tuple[int, ...], ...], stride: tuple[int, ...]
) -> LevelPlan:
    spans = Spans.from_lengths([math.prod(shape) for shape in shapes])
    level = Level(name="cells", dim=DIM, heads=1, group=FixedGroups(stride=stride), pool="conv")
    axes = len(stride)
    return LevelPlan(
        level, spans, torch.zeros(spans.total, axes), (1.0,) * axes, GridPlan(shapes, blocks), boundaries={}
    )


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="pooling 'mean' is already registered: MeanPooling"):
        base.register_pooling("mean")(MeanPooling)
    assert POOLINGS["mean"] is MeanPooling


def test_a_new_pooling_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_mm.core.pooling.base.POOLINGS", dict(POOLINGS))

    class Doubled(MeanPooling):
        def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
            return 2 * segment_mean(x_TD, groups.spans)

    assert base.register_pooling("doubled")(Doubled) is Doubled
    assert base.POOLINGS["doubled"] is Doubled
