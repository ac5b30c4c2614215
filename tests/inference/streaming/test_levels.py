"""Chunks of any size give what the forward pass gives, at every level: over all groupings, poolings and paths."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.core.causal import KeyValues
from hrt_mm.core.errors import UserError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.generation import Cache, step
from hrt_mm.inference.streaming import Finished, HierarchyStream, latencies, unbounded

GROUPS: dict[str, dict[str, Any]] = {
    "fixed": {"type": "fixed", "stride": 3},
    "given": {"type": "given", "boundary": "words", "max": 5, "typical": 3},
    "learned": {"type": "learned", "target": 2.5, "max": 4},
    "smooth": {"type": "learned", "target": 2.5, "max": 4, "smooth": True},
}
WAYS: dict[str, dict[str, Any]] = {
    "bottom_up": {},
    "up": {"cross_scale": {"up": True}},
    "down": {"cross_scale": {"down": True}},
    "all": {"top_down": True, "cross_scale": {"up": True, "down": True}},
}


def build(pool: str, group: str, way: str, second: str = "fixed") -> Hierarchy:
    sliding = {"window": 2, "window_type": "sliding"}
    levels = (
        {"name": "fine", "dim": 12, "heads": 2, "depth": 1, "pool": pool, "group": GROUPS[group]} | sliding,
        {"name": "mid", "dim": 16, "heads": 2, "kv_heads": 1, "depth": 2, "pool": pool, "group": GROUPS[second]}
        | sliding,
        {"name": "coarse", "dim": 12, "heads": 1, "depth": 1, "window": 1, "window_type": "sliding"},
    )
    model = Hierarchy(HierarchyConfig.model_validate({"levels": levels, "causal": True, **WAYS[way]}))
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.double().eval()


def sample(count: int = 40) -> Tokens:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 12, generator=generator, dtype=torch.float64)
    words = torch.rand(count, generator=generator) < 0.4
    spans = Spans.from_lengths([count])
    return Tokens(x, spans, spans.positions[:, None].float(), boundaries={"words": words})


def streamed(model: Hierarchy, tokens: Tokens, size: int, *, growing: bool = False) -> dict[str, Finished]:
    """All that a stream gives, chunk by chunk."""
    stream = HierarchyStream(model, growing=growing)
    starts = tokens.boundaries["words"].numpy()
    parts = []
    for first in range(0, len(tokens.x), size):
        chunk = slice(first, first + size)
        parts.append(stream.feed(tokens.x[chunk], {"words": starts[chunk]}))
    parts.append(stream.flush())
    return {name: Finished.joined([part[name] for part in parts]) for name in stream.names}


def check(model: Hierarchy, tokens: Tokens, size: int) -> None:
    """Tokens of all levels are those of the forward pass, and stand for the same level-0 tokens."""
    with torch.no_grad():
        whole = model(tokens)
    result = streamed(model, tokens, size)
    borders = np.arange(len(tokens.x) + 1)
    for name in whole.names:
        assert result[name].x_ND.shape == whole[name].x.shape
        # The forward pass has its coordinates in float32.
        assert (result[name].x_ND - whole[name].x).abs().max() < 1e-5, name
        assert result[name].first_N.tolist() == borders[:-1].tolist()
        assert result[name].last_N.tolist() == borders[1:].tolist()
        if name in whole.groups:
            borders = borders[whole.groups[name].host.numpy()]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("group", "way"), [(group, way) for group in GROUPS for way in WAYS if group != "smooth" or way == "all"]
)
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_chunks_equal_the_forward_pass(pool: str, group: str, way: str) -> None:
    model = build(pool, group, way)
    for size in (1, 7):
        check(model, sample(24), size)


@pytest.mark.parametrize(
    ("group", "second"), list(product(("fixed", "given", "learned"), ("given", "learned", "smooth")))
)
@pytest.mark.parametrize("pool", ["attention", "select"])
def test_groups_over_groups(pool: str, group: str, second: str) -> None:
    model = build(pool, group, "all", second)
    for size in (2, 11):
        check(model, sample(), size)


@pytest.mark.parametrize("pool", ["mean", "select"])
@pytest.mark.parametrize("count", range(1, 12))
def test_any_length(pool: str, count: int) -> None:
    check(build(pool, "fixed", "all"), sample(count), 2)


def test_nothing_in_gives_nothing_out() -> None:
    stream = HierarchyStream(build("mean", "fixed", "all"))
    result = [stream.feed(torch.zeros(0, 12).double()), stream.flush()]
    assert all(len(part[name]) == 0 for part in result for name in stream.names)
    assert result[0]["mid"].x_ND.shape == (0, 16)


@pytest.mark.parametrize("pool", ["conv", "select"])
@pytest.mark.parametrize("group", GROUPS)
def test_equal_to_steps(pool: str, group: str) -> None:
    """The loop of single steps is the reference."""
    model, tokens = build(pool, group, "all"), sample()
    cache, starts = Cache(model, 1), tokens.boundaries["words"].numpy()
    rows = [step(model, x[None], cache, {"words": starts[at : at + 1]}) for at, x in enumerate(tokens.x)]
    assert (streamed(model, tokens, 9)["fine"].x_ND - torch.cat(rows)).abs().max() < 1e-5


@pytest.mark.parametrize("wrong", ["window", "back", "started", "open"])
def test_a_wrong_memory_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the tests above can fail."""
    model, tokens = build("mean", "given", "all", "given"), sample()
    if wrong == "window":
        monkeypatch.setattr(KeyValues, "append", lambda *args: None)
    starts, stream = tokens.boundaries["words"].numpy(), HierarchyStream(model)
    at = 20 + int(np.flatnonzero(~starts[20:])[0])
    stream.feed(tokens.x[:at], {"words": starts[:at]})
    level = stream.memory.levels[0]
    assert level.back_BD is not None and level.open is not None
    if wrong == "back":
        level.back_BD = torch.zeros_like(level.back_BD)
    elif wrong == "started":
        level.open.started["words"] = ~level.open.started["words"]
    elif wrong == "open":
        level.open.x_BSD = torch.zeros_like(level.open.x_BSD)
    result = [stream.feed(tokens.x[at:], {"words": starts[at:]}), stream.flush()]
    with torch.no_grad():
        whole = model(tokens)
    different = []
    for name in stream.names:
        own = torch.cat([part[name].x_ND for part in result])
        other = whole[name].x[-len(own) :]
        different.append(own.shape != other.shape or float((own - other).abs().max()) > 1e-3)
    assert any(different)


def test_memory_is_constant_and_tokens_come_as_late_as_stated() -> None:
    model = build("attention", "learned", "all", "fixed")
    stream, late = HierarchyStream(model), latencies(model.config)
    assert late == {"fine": 0, "mid": 1, "coarse": 5}
    generator = torch.Generator().manual_seed(0)
    held = []
    for fed in range(1, 121):
        result = stream.feed(torch.randn(1, 12, generator=generator, dtype=torch.float64))
        for name, item in result.items():
            limit = late[name]
            assert limit is not None and all(fed - item.last_N <= limit)
        held.append(stream.nbytes)
    assert max(held[60:]) < 1.2 * max(held[:60])


def test_positions_stay_exact_far_out() -> None:
    """After days a stream gives what it would give at its beginning: positions count by their distance."""
    model, tokens = build("attention", "fixed", "up").float(), sample(30)
    x, far = tokens.x.float(), HierarchyStream(model)
    near = HierarchyStream(model).feed(x)
    far.memory.first_B[:] = 36 * 10**6
    for name, item in far.feed(x).items():
        assert (item.x_ND - near[name].x_ND).abs().max() < 1e-4


def test_a_level_that_sees_everything_is_refused() -> None:
    config = build("mean", "fixed", "all").config.model_dump()
    config["levels"][2].update(window=None, window_type="block")
    model = Hierarchy(HierarchyConfig.model_validate(config)).double().eval()
    with pytest.raises(UserError, match="level 'coarse' attends to everything before, so a stream would"):
        HierarchyStream(model)
    check_growing = streamed(model, sample(), 7, growing=True)
    with torch.no_grad():
        assert (check_growing["coarse"].x_ND - model(sample())["coarse"].x).abs().max() < 1e-5


def test_groups_without_a_cap_are_refused() -> None:
    config = build("mean", "given", "all").config.model_dump()
    config["levels"][0]["group"]["max"] = None
    reason = unbounded(HierarchyConfig.model_validate(config))
    assert reason is not None and "model.levels.fine.group.max" in reason
    assert latencies(HierarchyConfig.model_validate(config)) == {"fine": 0, "mid": 1, "coarse": None}


def test_mistakes_are_told() -> None:
    config = build("mean", "fixed", "all").config
    with pytest.raises(UserError, match="only a causal hierarchy over one axis can stream"):
        HierarchyStream(Hierarchy(config.model_copy(update={"causal": False})))
    stream = HierarchyStream(build("mean", "given", "all"))
    with pytest.raises(UserError, match=r"takes \(N, 12\) tokens, not \(3, 5\)"):
        stream.feed(torch.zeros(3, 5).double())
    with pytest.raises(UserError, match="groups by boundary 'words': give a bool array of 3 values, got nothing"):
        stream.feed(torch.zeros(3, 12).double())
    stream.flush()
    with pytest.raises(UserError, match="the stream has ended"):
        stream.flush()
