"""A hierarchy gives each sample the same, however the batch is made up, for every pooling and grouping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.errors import UserError
from hrt_mm.core.grids import nested_coords
from hrt_mm.core.hierarchy import Hierarchy, Transformer
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.rope import frequencies
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

Configure = Callable[..., HierarchyConfig]
Build = Callable[..., Hierarchy]
Pack = Callable[..., Tokens]
Shapes = dict[int, list[tuple[int, ...]]]

POOLS = sorted(POOLINGS)
GROUPS = ["fixed", "given", "learned"]
# Coordinates are float32: a mean over a view and one over an index differ in the last bit.
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 2e-5}


def total(pyramid: Pyramid, weights: Callable[[Tensor], Tensor]) -> Tensor:
    """A scalar that every token of every level has a part in."""
    return torch.stack([(pyramid[name].x * weights(pyramid[name].x)).sum() for name in pyramid.names]).sum()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_packed_equals_one_by_one(
    pool: str,
    group: str,
    causal: bool,
    axes: int,
    configure: Configure,
    build: Build,
    pack: Pack,
    unpack: Callable[[Tokens], list[Tokens]],
    shapes: Shapes,
) -> None:
    model = build(configure(pool, group, causal=causal, axes=axes), axes)
    tokens = pack(shapes[axes], model)
    tokens.x.requires_grad_()
    together = model(tokens)
    alone = [model(one) for one in unpack(tokens)]
    for name in together.names:
        level = together[name]
        for index, (x, single) in enumerate(zip(level.split(), alone, strict=True)):
            torch.testing.assert_close(x, single[name].x, **CLOSE)
            assert (level.grids or [None] * len(tokens))[index] == (single[name].grids or [None])[0]
        torch.testing.assert_close(level.coords_TC, torch.cat([single[name].coords_TC for single in alone]), **CLOSE)
        torch.testing.assert_close(together.pooled(name), torch.cat([single.pooled(name) for single in alone]), **CLOSE)
        if name in together.groups:
            parts = Spans.concat([single.groups[name] for single in alone])
            assert together.groups[name].lengths.tolist() == parts.lengths.tolist()
    seed = [torch.randn_like(level.x) for level in together.tokens.values()]
    (grad,) = torch.autograd.grad([level.x for level in together.tokens.values()], tokens.x, seed)
    pieces = [
        piece for level, rows in zip(together.tokens.values(), seed, strict=True) for piece in level.spans.split(rows)
    ]
    outputs = [single[name].x for name in together.names for single in alone]
    (grad_alone,) = torch.autograd.grad(outputs, tokens.x, pieces)
    torch.testing.assert_close(grad, grad_alone, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("axes", "shape", "odd"), [(1, (24,), (7,)), (2, (12, 12), (5, 3)), (3, (6, 6, 12), (1, 2, 3))]
)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_uniform_batch_equals_the_ragged_path(
    pool: str,
    causal: bool,
    axes: int,
    shape: tuple[int, ...],
    odd: tuple[int, ...],
    configure: Configure,
    build: Build,
    pack: Pack,
    batch: Callable[[list[Tokens]], Tokens],
) -> None:
    model = build(configure(pool, causal=causal, axes=axes), axes)
    uniform = pack([shape] * 2, model)
    ragged = batch([uniform, pack([odd], model, 50)])
    assert uniform.spans.uniform
    assert ragged.spans.uniform is None
    one, two = model(uniform), model(ragged)
    for name in one.names:
        torch.testing.assert_close(two[name].x[: len(one[name].x)], one[name].x, **CLOSE)


@pytest.mark.parametrize("group", GROUPS)
def test_permuted_samples_give_permuted_outputs(
    group: str,
    configure: Configure,
    build: Build,
    pack: Pack,
    batch: Callable[[list[Tokens]], Tokens],
    unpack: Callable[[Tokens], list[Tokens]],
    shapes: Shapes,
) -> None:
    model = build(configure("attention", group))
    samples = unpack(pack(shapes[1], model))
    order = [3, 0, 4, 2, 1]
    one, two = model(batch(samples)), model(batch([samples[index] for index in order]))
    for name in one.names:
        torch.testing.assert_close(two.pooled(name), one.pooled(name)[order], **CLOSE)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_single_tokens_and_empty_samples(
    pool: str, group: str, causal: bool, configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, group, causal=causal, alignment=0.1, reconstruction=0.1))
    for sizes in ([(1,)], [(1,), (1,), (1,)], [(0,)], [(0,), (0,)], [(0,), (1,), (0,)]):
        pyramid = model(pack(sizes, model))
        for name in pyramid.names:
            assert pyramid[name].x.isfinite().all()
            assert len(pyramid[name].x) == sum(size[0] for size in sizes)
            assert pyramid.pooled(name).shape == (len(sizes), pyramid[name].x.shape[1])
            assert pyramid.pooled(name).isfinite().all()
        for name, loss in pyramid.losses.items():
            assert loss.isfinite(), name


def plain_transformer(model: Transformer, x: Tensor, coords: Tensor) -> Tensor:
    """The flat transformer on one sample, as its formulas read."""
    level = model.config.levels[0]

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    turns, owners = frequencies(level.head_dim, 1, 10000.0)
    angles = coords[:, owners].double() * turns
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def turned(x: Tensor) -> Tensor:
        first, second = norm(x)[..., ::2], norm(x)[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)

    for block in model.stages[0].encoder:
        attention, mlp = block.attention, block.mlp
        qkv = attention.qkv(norm(x)).view(len(x), -1, level.head_dim)
        kv_heads = level.kv_heads or level.heads
        q, k, v = qkv.split([level.heads, kv_heads, kv_heads], 1)
        q, k = turned(q) * attention.q_gain, turned(k)
        k, v = (part.repeat_interleave(level.heads // kv_heads, 1) for part in (k, v))
        scores = torch.einsum("qhe,khe->hqk", q, k) / level.head_dim**0.5
        mixed = torch.einsum("hqk,khe->qhe", scores.softmax(-1), v).flatten(1)
        x = x + attention.out(mixed)
        gate, value = mlp.up(norm(x)).chunk(2, -1)
        x = x + mlp.down(gate * gate.sigmoid() * value)
    return norm(x)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_flat_transformer_is_its_formula(kv_heads: int, awake: Callable[[nn.Module], None]) -> None:
    model = Transformer(Level(name="flat", dim=16, heads=4, kv_heads=kv_heads, depth=3)).double()
    awake(model)
    tokens = Tokens.pack([torch.randn(9, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)])
    out = model(tokens)["flat"]
    for got, x in zip(out.split(), tokens.split(), strict=True):
        want = plain_transformer(model, x, torch.arange(len(x))[:, None])
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_a_fresh_hierarchy_passes_its_tokens_through(configure: Configure, pack: Pack) -> None:
    """Residual branches start at zero, and gates near it."""
    model = Hierarchy(configure(cross_scale={"up": False, "down": False}, top_down=False))
    tokens = pack([(9,), (4,)], model)
    torch.testing.assert_close(model(tokens)["fine"].x, nn.functional.rms_norm(tokens.x, (12,), eps=1e-6))
    gated = Hierarchy(configure(top_down=False))
    gated.load_state_dict(model.state_dict(), strict=False)
    change = gated(tokens)["fine"].x - model(tokens)["fine"].x
    assert 0 < change.norm() < 0.1 * model(tokens)["fine"].x.norm()


def test_gates_are_measured(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure())
    tokens = pack([(9,), (4,)], model)
    assert not model(tokens).stats
    model.measure_contributions = True
    stats = model(tokens).stats
    paths = {"down/fine", "down/mid", "top_down/fine", "top_down/mid", "up/mid", "up/coarse"}
    assert set(stats) == {f"contribution/{path}" for path in paths}
    assert all(value > 0 for value in stats.values())
    for path in paths:
        kind, level = path.split("/")
        if kind == "top_down":
            continue
        index = {"fine": 0, "mid": 1, "coarse": 1}[level] if kind == "down" else {"mid": 0, "coarse": 1}[level]
        gate = getattr(model, kind)[index].gate_D
        kept = gate.data.clone()
        gate.data.zero_()
        assert model(tokens).stats[f"contribution/{path}"] == 0, f"a shut gate of {path} is not seen"
        gate.data = kept


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_parameter_gets_a_gradient(
    pool: str,
    group: str,
    causal: bool,
    configure: Configure,
    build: Build,
    pack: Pack,
    weights: Callable[[Tensor], Tensor],
) -> None:
    model = build(configure(pool, group, causal=causal, alignment=0.1, reconstruction=0.1))
    pyramid = model(pack([(17,), (9,), (1,)], model))
    (total(pyramid, weights) + sum(pyramid.losses.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is not used: DDP would wait for it"
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("reads", "kwargs"),
    [
        ("coarse", {"cross_scale": {}, "top_down": False}),
        ("coarse", {"cross_scale": {"up": True}, "top_down": False}),
        ("fine", {"cross_scale": {}, "top_down": True}),
        ("fine", {"cross_scale": {"down": True}, "top_down": True}),
        ("fine", {"cross_scale": {"down": True}, "top_down": False}),
    ],
    ids=["bottom-up", "up", "top-down", "down-and-top-down", "down"],
)
@pytest.mark.parametrize("pool", ["mean", "select"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_a_task_on_one_level_uses_all_parameters(
    reads: str, kwargs: dict[str, Any], pool: str, causal: bool, configure: Configure, pack: Pack
) -> None:
    model = Hierarchy(configure(pool, "learned", causal=causal, **kwargs))
    model(pack([(17,), (9,)], model))[reads].x.sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


def test_the_levels_of_parameters(configure: Configure) -> None:
    model = Hierarchy(configure("attention", "learned", alignment=0.1, reconstruction=0.1))
    levels = model.parameter_levels()
    assert set(levels) == {name for name, _ in model.named_parameters()}
    assert set(levels.values()) == {0, 1, 2}
    for name, level in levels.items():
        part, index = name.split(".")[:2]
        assert level == int(index) + (part == "up"), name


def test_weights_do_not_depend_on_the_size_of_the_input(
    configure: Configure, build: Build, pack: Pack, awake: Callable[[nn.Module], None]
) -> None:
    config = configure("attention", axes=2, reconstruction=0.1)
    model = build(config, 2)
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}, "buffers were saved"
    model(pack([(5, 7)], model))
    assert set(model.state_dict()) == set(state)
    other = Hierarchy(config, 2).double().eval()
    other.load_state_dict(state)
    for sizes in ([(2, 3)], [(20, 9), (1, 1)], [(16, 16)] * 3):
        tokens = pack(sizes, model)
        torch.testing.assert_close(other(tokens)["coarse"].x, model(tokens)["coarse"].x)


def test_evaluation_first_and_training_after_on_the_same_tokens(configure: Configure, build: Build, pack: Pack) -> None:
    for axes, sizes in ((1, [(7,), (4,)]), (2, [(3, 5), (6, 2)])):
        model = build(configure("conv", axes=axes, reconstruction=0.1), axes)
        tokens = pack(sizes, model)
        with torch.inference_mode():
            model(tokens).maps("fine")
        pyramid = model(tokens)
        (pyramid.maps("fine")[0].sum() + sum(pyramid.losses.values())).backward()


@pytest.mark.parametrize("group", GROUPS)
def test_a_fixed_batch_does_not_collect_the_plans_of_every_step(
    group: str, configure: Configure, build: Build, pack: Pack
) -> None:
    for axes, sizes in ((1, [(17,), (9,)]), (2, [(5, 7), (3, 4)])):
        model = build(configure("attention", group, axes=axes), axes)
        tokens = pack(sizes, model)
        counts = []
        for _ in range(4):
            with torch.no_grad():
                model(tokens)
            counts.append((len(tokens.spans._cache), len(tokens.spans._pairs)))
        assert len(set(counts[1:])) == 1, counts


def test_hierarchies_of_different_blocks_share_tokens(configure: Configure, build: Build) -> None:
    """The runs of a window depend on the order of the grid, and two models may order one batch's grids differently."""

    def make(stride: int) -> Hierarchy:
        fine = {"name": "fine", "dim": 8, "heads": 1, "window": 2, "group": {"type": "fixed", "stride": stride}}
        coarse = {"name": "coarse", "dim": 8, "heads": 1}
        return build(HierarchyConfig.model_validate({"levels": (fine, coarse)}), 2)

    shape = (3, 7)
    spans = Spans.from_lengths([21])
    raster = torch.randn(3, 7, 8, dtype=torch.float64)
    for stride in (2, 4, 6):
        model = make(stride)
        coords = nested_coords(shape, model.blocks)
        x = raster[coords[:, 0].long(), coords[:, 1].long()]
        shared = model(Tokens(x, spans, coords, (shape,)))
        fresh = model(Tokens(x, Spans.from_lengths([21]), coords, (shape,)))
        torch.testing.assert_close(shared["fine"].x, fresh["fine"].x)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            lambda: Tokens.pack([torch.zeros(4, 5)]),
            r"level 'fine' takes \(T, 12\) tokens, not \(4, 5\); embed them first",
        ),
        (lambda: Tokens.pack([torch.zeros(4, dtype=torch.int64)]), r"takes \(T, 12\) tokens, not \(4,\); embed them"),
        (
            lambda: Tokens.pack([torch.zeros(4, 12)], coords=[torch.zeros(4, 2)]),
            "the hierarchy was built for 1 axes, the tokens have 2",
        ),
        (
            lambda: Tokens.pack([torch.zeros(4, 12)], boundaries={"lines": [torch.ones(4, dtype=torch.bool)]}),
            "level 'fine' groups by boundary 'words', which the tokens do not carry; they carry: lines",
        ),
        (lambda: Tokens.pack([torch.zeros(4, 12)]), "they carry: none"),
    ],
    ids=["width", "ids", "axes", "boundary", "no-boundary"],
)
def test_tokens_that_do_not_fit_are_named(tokens: Callable[[], Tokens], message: str, configure: Configure) -> None:
    with pytest.raises(UserError, match=message):
        Hierarchy(configure("mean", "given"))(tokens())


def test_grids_without_their_shape_are_named(configure: Configure) -> None:
    tokens = Tokens.pack([torch.zeros(4, 12)], coords=[torch.zeros(4, 2)])
    with pytest.raises(UserError, match=r"tokens on 2 axes must be grids in hierarchical order; set Tokens\.grids"):
        Hierarchy(configure(axes=2), 2)(tokens)


@pytest.mark.parametrize("pool", POOLS)
def test_builds_on_the_meta_device(pool: str, configure: Configure) -> None:
    with torch.device("meta"):
        model = Hierarchy(configure(pool, "learned", reconstruction=0.1))
    assert all(parameter.is_meta for parameter in model.parameters())
