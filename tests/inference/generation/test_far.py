"""Where a text begins changes nothing: positions are rotations by distance, a million tokens out as at the start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import UserError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.core.rope import FLOAT32_RANGE, Rotary
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.generation import Cache, cache_of, cache_state, prefill, step
from hrt_mm.inference.streaming.levels import HierarchyStream, unbounded
from tests.inference.generation.test_stepping import awake, batch, beginning, build

MODELS: list[dict[str, Any]] = [
    {"pool": "mean", "group": "fixed", "way": "both"},
    {"pool": "attention", "group": "given", "way": "down"},
    {"pool": "select", "group": "given", "way": "both"},
    {"pool": "mean", "group": "learned", "way": "both"},
]

FINE = {"name": "a", "dim": 8, "heads": 2, "depth": 1, "window": 4, "window_type": "sliding"}


def moved(tokens: Tokens, by: float) -> Tokens:
    return replace(tokens, coords_TC=tokens.coords_TC.double() + by)


def continued(model: Hierarchy, tokens: Tokens, prompt: int, by: float) -> Tensor:
    """A text whose first token lies at ``by``: its prompt, then steps."""
    start = beginning(tokens, [prompt])
    pyramid, cache = prefill(model, moved(replace(start, x=start.x), by))
    result = [pyramid[0].x]
    for index in range(prompt, len(tokens.x)):
        starts = {"words": tokens.boundaries["words"][index : index + 1].numpy()}
        result.append(step(model, tokens.x[index : index + 1], cache, starts))
    return torch.cat(result)


@pytest.mark.parametrize("options", MODELS, ids=lambda options: f"{options['pool']}-{options['group']}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_a_text_far_out_is_the_same_text(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = build(**options).to(dtype)
    tokens = batch([40])
    tokens = tokens.with_x(tokens.x.to(dtype))
    near = model(tokens)[0].x
    tolerance = 1e-8 if dtype == torch.float64 else 2e-4
    for by in (1000, 2**20, 10**7, 10**9):
        far = model(moved(tokens, by))[0].x
        torch.testing.assert_close(far, near, atol=tolerance * (1 + (by >= 10**9) * 100), rtol=0)
        torch.testing.assert_close(continued(model, tokens, 13, by), far, atol=tolerance, rtol=0)


@torch.no_grad()
def test_steps_after_many_steps() -> None:
    """Counts far out, as a text of ten million tokens has them, over windows that were filled since."""
    levels = [
        FINE | {"group": {"type": "fixed", "stride": 3}},
        {"name": "b", "dim": 8, "heads": 2, "window": 3, "window_type": "sliding"},
    ]
    ways = {"top_down": True, "cross_scale": {"down": True}}
    model = awake(Hierarchy(HierarchyConfig.model_validate({"causal": True, "levels": levels, **ways}))).float()
    tokens = batch([120], 8)
    far = 60 * 200_000
    result = []
    for count in (0, far):
        cache = Cache(model, 1)
        for index, level in enumerate(cache.levels):
            level.count_B[:] = count // 3**index
            level.groups_B[:] = count // 3 * (index == 0)
        result.append(torch.cat([step(model, x_D[None].float(), cache) for x_D in tokens.x]))
    near, out = result
    assert (near[-15:] - out[-15:]).abs().max() < 2e-3


def test_angles_are_exact_at_any_distance() -> None:
    rotary = Rotary(16, 1, 10000.0)
    positions = torch.tensor(
        [[0.0], [FLOAT32_RANGE - 1], [FLOAT32_RANGE], [1e6], [16_000_001.0], [1e12]], dtype=torch.float64
    )
    turns = rotary.tables(positions)[0]
    expected = torch.polar(torch.ones(1, dtype=torch.float64), positions * turns)[:, None]
    step_1 = torch.ones(1)
    result = rotary.rotations(positions, step_1, torch.zeros(1))
    assert result.dtype == torch.complex64
    assert (result - expected).abs().max() < 3e-4
    assert (rotary.rotations(positions, step_1, positions) - expected).abs().max() < 1e-9
    near = rotary.rotations(positions[:2].float(), step_1, torch.zeros(1))
    assert torch.equal(result[:2], near), "positions near the start do not depend on the others"
    assert torch.equal(rotary.rotations(positions[:5].float(), step_1, torch.zeros(1)), result[:5]), (
        "whole numbers in float32"
    )


def test_long_texts_are_packed_with_exact_positions() -> None:
    assert Tokens.pack([torch.zeros(4)]).coords_TC.dtype == torch.float32
    far = torch.tensor([[2.0**24 + 1], [2.0**24 + 2]], dtype=torch.float64)
    for coords in (far, far.long()):
        assert torch.equal(Tokens.pack([torch.zeros(2)], coords=[coords]).coords_TC, far)


def test_older_caches_are_read() -> None:
    model = build("mean", "fixed", "both")
    with torch.no_grad():
        _, cache = prefill(model, batch([17]))
    state = dict(cache_state(cache))
    del state["first"]
    state |= {name: value.float() for name, value in state.items() if name.endswith(".places")}
    assert torch.equal(cache_state(cache_of(model, state))["fine.open.places"], cache_state(cache)["fine.open.places"])


def bare() -> Hierarchy:
    level = Level(name="bytes", dim=8, depth=0, heads=2)
    return Hierarchy(HierarchyConfig(levels=(level,), causal=True)).eval()


@torch.no_grad()
def test_a_model_without_parameters_steps_and_streams() -> None:
    model = bare()
    spans = Spans.from_lengths([5, 2])
    tokens = Tokens(torch.randn(7, 8), spans, spans.positions[:, None].float())
    whole = model(tokens)[0].x
    pyramid, cache = prefill(model, beginning(tokens, [3, 2]))
    assert torch.equal(pyramid[0].x, whole[[0, 1, 2, 5, 6]])
    cache.select([0])
    assert torch.equal(step(model, tokens.x[3:4], cache), whole[3:4])
    stream = HierarchyStream(model)
    result = [stream.feed(part)["bytes"].x_ND for part in tokens.x[:5].split([2, 0, 3])]
    assert torch.equal(torch.cat(result), whole[:5])
    assert model.half().like.dtype == torch.float16
    assert list(model.state_dict()) == []


def test_no_samples_take_no_step() -> None:
    model = build("mean", "given", "both")
    _, cache = prefill(model, batch([4, 2]))
    with pytest.raises(UserError, match="no sample 2; the cache holds 2"):
        cache.select([0, 2])
    cache.select([])
    assert step(model, torch.zeros(0, 12).double(), cache, {"words": np.zeros(0, bool)}).shape == (0, 12)


@pytest.mark.parametrize(
    ("ways", "coarse", "named"),
    [
        ({"cross_scale": {"down": True}}, {"depth": 0}, "b"),
        ({"cross_scale": {"down": True}}, {"depth": 0, "window": 4, "window_type": "sliding"}, None),
        ({"cross_scale": {"up": True}}, {"depth": 0}, None),
        ({"cross_scale": {"up": True}}, {"depth": 1}, "b"),
        ({"top_down": True}, {"depth": 0}, None),
    ],
    ids=["seen", "seen-in-a-window", "blind", "blocks", "top-down"],
)
@torch.no_grad()
def test_what_grows_is_known(ways: dict[str, Any], coarse: dict[str, Any], named: str | None) -> None:
    levels = [FINE | {"group": {"type": "fixed", "stride": 2}}, {"name": "b", "dim": 8, "heads": 2} | coarse]
    config = HierarchyConfig.model_validate({"causal": True, "levels": levels, **ways})
    reason = unbounded(config)
    assert (reason is None) == (named is None)
    assert reason is None or f"level '{named}'" in reason
    stream = HierarchyStream(awake(Hierarchy(config)), growing=True)
    held = []
    for _ in range(3):
        stream.feed(torch.randn(200, 8).double())
        held.append(stream.nbytes)
    assert (held[-1] > held[0]) == (named is not None)
