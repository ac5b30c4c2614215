"""Causal mode: no output depends on a later input. By gradient, by perturbation, and with controls that must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core import cross_scale, transition
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.core.transition import Transition

Configure = Callable[..., HierarchyConfig]
Build = Callable[..., Hierarchy]
Pack = Callable[..., Tokens]

POOLS = sorted(POOLINGS)
GROUPS = ["fixed", "given", "learned"]
LENGTH = 23


def influence(model: Hierarchy, tokens: Tokens, level: str = "fine") -> tuple[Tensor, Pyramid]:
    """(outputs, inputs): the size of d out[t] / d in[u], for a batch of one sample."""
    x = tokens.x.detach().requires_grad_()
    pyramid = model(tokens.with_x(x))
    out = pyramid[level].x
    weight = torch.randn_like(out)
    rows = []
    for row in (out * weight).sum(-1):
        (grad,) = torch.autograd.grad(row, x, retain_graph=True)
        rows.append(grad.abs().sum(-1))
    return torch.stack(rows), pyramid


def later(size: Tensor) -> Tensor:
    """The influence of later inputs."""
    return size.triu(1)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_no_gradient_comes_from_later_tokens(
    pool: str, group: str, configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, group, causal=True))
    size, pyramid = influence(model, pack([(LENGTH,)], model))
    assert later(size).eq(0).all(), f"leaks: {later(size).nonzero().tolist()[:5]}"
    assert size.diagonal().gt(0).all()
    # Far past the windows of the fine level, so through coarse tokens alone. A path is open from every group but one's
    # own; with select and max not every input has a part in its group's token.
    ends = pyramid.groups["fine"].host[1:]
    for t in (LENGTH - 1, LENGTH // 2 + 3):
        far = size[t, : int(ends[ends <= t - 8].max())]
        assert far.gt(0).float().mean() >= (0.2 if pool == "select" else 0.9), f"token {t} is blind to its far past"


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_coarse_tokens_depend_on_nothing_after_their_group(
    pool: str, group: str, configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, group, causal=True))
    tokens = pack([(LENGTH,)], model)
    for level in ("mid", "coarse"):
        size, pyramid = influence(model, tokens, level)
        ends = pyramid.groups["fine"].host[1:]
        if level == "coarse":
            ends = ends[pyramid.groups["mid"].host[1:] - 1]
        for row, end in zip(size, ends.tolist(), strict=True):
            assert row[end:].eq(0).all()
            assert row[:end].gt(0).any()


def changed_futures(tokens: Tokens, seed: int = 1) -> tuple[Tokens, list[int]]:
    """A batch of copies of one sample; copy t has another future from t on, boundaries too."""
    generator = torch.Generator().manual_seed(seed)
    xs, words = [], []
    for t in range(len(tokens.x) + 1):
        x, word = tokens.x.clone(), tokens.boundaries["words"].clone()
        x[t:] = torch.randn(x[t:].shape, generator=generator).to(x.dtype) * 3
        word[t:] = torch.rand(len(word) - t, generator=generator) < 0.5
        xs.append(x)
        words.append(word)
    coords = [tokens.coords_TC] * len(xs)
    return Tokens.pack(xs, coords=coords, boundaries={"words": words}), list(range(len(xs)))


def largest_change(model: Hierarchy, tokens: Tokens) -> tuple[float, float]:
    """How much outputs before the change move, and outputs from it on."""
    changed, positions = changed_futures(tokens)
    with torch.no_grad():
        base = model(tokens)["fine"].x
        outputs = model(changed)["fine"].split()
    before = max(float((out[:t] - base[:t]).abs().max()) for out, t in zip(outputs, positions, strict=True) if t)
    after = min(
        float((out[t:] - base[t:]).abs().max()) for out, t in zip(outputs, positions, strict=True) if t < len(base)
    )
    return before, after


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", POOLS)
def test_another_future_changes_no_earlier_output(
    pool: str, group: str, configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, group, causal=True))
    for seed in (0, 10):
        before, after = largest_change(model, pack([(LENGTH,)], model, seed))
        assert before < 1e-5
        assert after > 1e-2


@pytest.mark.parametrize("pool", ["mean", "select", "haar"])
def test_given_groups_over_groups_of_another_kind(pool: str, configure: Configure, build: Build, pack: Pack) -> None:
    """Whether a group starts a word may be known from its last token on; tokens that see their own group know less."""
    config = configure(pool, "fixed", causal=True)
    fine, mid, coarse = config.levels
    words = replace_group(mid.model_dump(), {"type": "given", "boundary": "words", "max": 3})
    model = build(
        HierarchyConfig.model_validate(
            config.model_dump() | {"levels": (fine.model_dump(), words, coarse.model_dump())}
        )
    )
    for seed in range(4):
        before, _ = largest_change(model, pack([(LENGTH,)], model, seed))
        assert before < 1e-5, f"leaks {before:.2e}"


def replace_group(level: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    return level | {"group": group}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_grids_are_causal_in_their_order(pool: str, axes: int, configure: Configure, build: Build, pack: Pack) -> None:
    model = build(configure(pool, causal=True, axes=axes), axes)
    size, _ = influence(model, pack([(5, 4) if axes == 2 else (3, 2, 3)], model))
    assert later(size).eq(0).all()
    assert size[-1].gt(0).float().mean() > 0.2


def test_neighbours_in_the_batch_do_not_leak(configure: Configure, build: Build, pack: Pack) -> None:
    for pool in ("mean", "select"):
        model = build(configure(pool, "learned", causal=True))
        tokens = pack([(9,), (0,), (14,), (1,)], model)
        size, _ = influence(model, tokens)
        ids = tokens.spans.ids
        assert size[ids[:, None] != ids[None]].eq(0).all()
        assert later(size).eq(0).all()


PATHS: list[dict[str, Any]] = [
    {"cross_scale": {"down": True}, "top_down": False},
    {"cross_scale": {}, "top_down": True},
]


@pytest.mark.parametrize("paths", PATHS, ids=["down", "top-down"])
@pytest.mark.parametrize("pool", POOLS)
def test_each_path_alone_carries_the_past(
    pool: str, paths: dict[str, Any], configure: Configure, build: Build, pack: Pack
) -> None:
    model = build(configure(pool, "fixed", causal=True, **paths))
    size, _ = influence(model, pack([(LENGTH,)], model))
    assert later(size).eq(0).all()
    assert size[-1, : LENGTH - 9].gt(0).any()


# The controls: what must be found, is found.


@pytest.mark.parametrize("group", GROUPS)
def test_control_full_attention_leaks(group: str, configure: Configure, build: Build, pack: Pack) -> None:
    causal = configure("mean", group, causal=True)
    model = build(HierarchyConfig.model_validate(causal.model_dump() | {"causal": False}))
    tokens = pack([(LENGTH,)], model)
    assert later(influence(model, tokens)[0]).gt(0).any()
    assert largest_change(model, tokens)[0] > 1e-2


@pytest.mark.parametrize("paths", PATHS, ids=["down", "top-down"])
@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool != "select"])
def test_control_without_its_delay_each_path_leaks(
    pool: str,
    paths: dict[str, Any],
    configure: Configure,
    build: Build,
    pack: Pack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def undelayed(x_GD: Tensor, samples: Spans, lead: Tensor) -> Tensor:
        return x_GD

    monkeypatch.setattr(cross_scale, "shift_right", undelayed)
    monkeypatch.setattr(transition, "shift_right", undelayed)
    model = build(configure(pool, "fixed", causal=True, **paths))
    tokens = pack([(LENGTH,)], model)
    assert later(influence(model, tokens)[0]).gt(0).any()
    assert largest_change(model, tokens)[0] > 1e-2


@pytest.mark.parametrize("paths", PATHS, ids=["down", "top-down"])
def test_control_seeing_ones_own_group_leaks_unless_it_is_its_first_token(
    paths: dict[str, Any], configure: Configure, build: Build, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transition, "inclusive", property(lambda self: True))
    leaky = build(configure("mean", "fixed", causal=True, **paths))
    tokens = pack([(LENGTH,)], leaky)
    assert largest_change(leaky, tokens)[0] > 1e-2
    fine = build(configure("select", "fixed", causal=True, **paths))
    assert largest_change(fine, tokens)[0] < 1e-5


def test_control_up_before_down_would_leak(configure: Configure, build: Build, pack: Pack) -> None:
    """The way up comes last: a coarse token that asked its whole group may not come back down."""

    class Reversed(Hierarchy):
        def _bottom_up(self, tokens: Tokens, record: Any, levels: int | None, source: Any) -> Any:
            states = super()._bottom_up(tokens, record, levels, source)
            for index in range(len(states) - 1):
                self._ascend(index, states, record)
            return states

    config = configure("select", "fixed", causal=True)
    model = Reversed(config).double().eval()
    model.load_state_dict(build(config).state_dict())
    assert largest_change(model, pack([(LENGTH,)], model))[0] > 1e-2


# The staircase, as its words read.


@pytest.mark.parametrize("inclusive", [False, True], ids=["before", "own"])
@pytest.mark.parametrize("window", [None, 0, 2])
def test_the_staircase_is_what_it_says(inclusive: bool, window: int | None, awake: Callable[..., None]) -> None:
    down = cross_scale.CausalDown(8, 12, 2, 1, 100.0, "reference", inclusive=inclusive).double()
    awake(down)
    groups = Spans.from_lengths([2, 3, 1, 4, 2, 2])
    samples = Spans.from_lengths([4, 0, 2])
    x, source = torch.randn(14, 8, dtype=torch.float64), torch.randn(6, 12, dtype=torch.float64)
    coords, positions = torch.rand(14, 1) * 9, torch.rand(6, 1) * 9
    step = torch.ones(1)
    origin = torch.tensor([[3.0], [0.0], [-1.0]])
    got = down.staircase(x, coords, groups, source, positions, samples, step, origin, window=window)
    if not inclusive:
        # From where the sample begins, where the null key lies.
        positions, coords = positions - origin[[0] * 4 + [2] * 2], coords - origin[[0] * 10 + [2] * 4]
    q = down.queries(x, down.rope(coords, step))
    keys, values = down.keys_values(source, down.rope(positions, step))
    rows = []
    for token, item in enumerate(groups.ids.tolist()):
        sample = int(samples.ids[item])
        first = int(samples.host[sample])
        last = item if inclusive else item - 1
        reach = last - window if window is not None else first
        seen = list(range(max(first, reach), last + 1))
        k, v = keys[seen], values[seen]
        if down.null_key is not None and (window is None or item - first <= window):
            k, v = torch.cat([down.null_key[:1], k]), torch.cat([down.null_key[1:], v])
        scores = torch.einsum("he,khe->hk", q[token], k) / 2
        rows.append(torch.einsum("hk,khe->he", scores.softmax(-1), v).flatten())
    want = down.out(torch.stack(rows)) * down.gate_D
    torch.testing.assert_close(got, want)


def test_a_coarse_level_that_is_not_grouped_yet_gives_its_lead(configure: Configure, build: Build, pack: Pack) -> None:
    """Tokens of the first group have nothing coarser before them, and must not be left without a value."""
    model = build(configure("mean", "fixed", causal=True))
    tokens = pack([(2,), (3,)], model)
    assert model(tokens)["fine"].x.isfinite().all()
    one = replace(tokens, x=torch.zeros_like(tokens.x))
    assert model(one)["fine"].x.isfinite().all()
