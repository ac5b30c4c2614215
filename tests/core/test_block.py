"""Stochastic depth, activation checkpointing and half precision of the blocks and of whole hierarchies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.block import Block
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.rope import frequencies, rotations
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

Configure = Callable[..., HierarchyConfig]
Build = Callable[..., Hierarchy]
Pack = Callable[..., Tokens]
LEVEL = Level(name="flat", dim=16, heads=2)


def block(awake: Callable[[nn.Module], None], drop_path: float = 0.0, dropout: float = 0.0) -> Block:
    one = Block(LEVEL, drop_path=drop_path, dropout=dropout).double()
    awake(one)
    return one


def rope(samples: Spans) -> Tensor:
    return rotations(samples.positions[:, None].float(), torch.ones(1), *frequencies(LEVEL.head_dim, 1, 100.0))


def added(one: Block, branch: str) -> tuple[Spans, Tensor, Tensor]:
    """Samples, and what one branch adds to their tokens in evaluation and in training."""
    silent = one.mlp.down if branch == "attention" else one.attention.out
    nn.init.zeros_(silent.weight)
    samples = Spans.from_lengths([1 + index % 4 for index in range(400)])
    x = torch.randn(samples.total, 16, dtype=torch.float64)
    turns = rope(samples)
    whole = one.eval()(x, samples, turns, samples=samples) - x
    changed = one.train()(x, samples, turns, samples=samples) - x
    return samples, whole, changed


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_stochastic_depth_skips_whole_samples(branch: str, awake: Callable[[nn.Module], None]) -> None:
    one = block(awake, 0.4)
    samples, whole, changed = added(one, branch)
    kept = []
    for got, full in zip(samples.split(changed), samples.split(whole), strict=True):
        kept.append(bool(got.abs().sum() > 0))
        torch.testing.assert_close(got, full / 0.6 if kept[-1] else torch.zeros_like(full))
    assert 0.5 < sum(kept) / len(kept) < 0.7


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_dropout_drops_single_values_of_a_branch(branch: str, awake: Callable[[nn.Module], None]) -> None:
    one = block(awake, dropout=0.25)
    _, whole, changed = added(one, branch)
    kept = changed.abs() > 0
    torch.testing.assert_close(changed, torch.where(kept, whole / 0.75, 0.0))
    assert 0.73 < float(kept.double().mean()) < 0.77


def test_both_branches_are_dropped_apart(awake: Callable[[nn.Module], None]) -> None:
    one = block(awake, 0.5).train()
    samples = Spans.from_lengths([1] * 400)
    x = torch.randn(1, 16, dtype=torch.float64).expand(400, 16)
    outputs = one(x, samples, rope(samples), samples=samples)
    assert len({tuple(row) for row in (outputs * 1e6).round().tolist()}) == 4


def test_the_rate_rises_to_the_last_block() -> None:
    levels = (
        {"name": "a", "dim": 8, "heads": 1, "depth": 2, "decoder_depth": 1, "group": {"type": "fixed", "stride": 2}},
        {"name": "b", "dim": 8, "heads": 1, "depth": 0, "decoder_depth": 0, "group": {"type": "fixed", "stride": 2}},
        {"name": "c", "dim": 8, "heads": 1, "depth": 3},
    )
    model = Hierarchy(HierarchyConfig.model_validate({"levels": levels, "drop_path": 0.4, "top_down": True}))
    rates = [[one.drop_path for one in stage.encoder] for stage in model.stages]
    assert [pytest.approx(rate) for rate in rates] == [[0.0, 0.1], [], [0.2, 0.3, 0.4]]
    first = model.stages[0]
    assert [one.drop_path for one in first.decoder] == [0.4]


def test_evaluation_draws_nothing(configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure(drop_path=0.5, dropout=0.5))
    tokens = pack([(9,), (4,)], model)
    assert torch.equal(model(tokens)["coarse"].x, model(tokens)["coarse"].x)
    model.train()
    assert not torch.equal(model(tokens)["coarse"].x, model(tokens)["coarse"].x)


@pytest.mark.parametrize("group", ["fixed", "learned"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_checkpointing_gives_the_same_gradients(
    group: str, causal: bool, configure: Configure, build: Build, pack: Pack
) -> None:
    grads = []
    for checkpointed in (False, True):
        model = build(
            configure(
                "attention", group, causal=causal, activation_checkpointing=checkpointed, drop_path=0.3, dropout=0.2
            )
        ).train()
        torch.manual_seed(5)
        pyramid = model(pack([(17,), (9,)], model))
        outputs = [pyramid[name].x for name in pyramid.names]
        torch.stack([(x.square() * torch.arange(x.shape[1])).sum() for x in outputs]).sum().backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("group", ["fixed", "given", "learned"])
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_autocast_trains_near_float32(
    pool: str, group: str, causal: bool, axes: int, configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, group, causal=causal, axes=axes, alignment=0.1, reconstruction=0.1), axes).float()
    tokens = pack([(17,), (9,), (1,)] if axes == 1 else [(5, 7), (3, 3)], model)
    exact = model(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pyramid = model(tokens)
    loss = torch.stack([pyramid[name].x.float().square().sum() for name in pyramid.names]).sum()
    (loss + sum(pyramid.losses.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
    for name, result in pyramid.losses.items():
        assert result.dtype == torch.float32, f"{name} is taken in half precision"
    if group != "learned":  # A boundary may fall the other way.
        off = (pyramid["fine"].x.float() - exact["fine"].x).norm() / exact["fine"].x.norm()
        assert off < 0.05, f"off by {off:.1%}"
