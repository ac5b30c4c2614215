"""A token at a time equals all at once: over all groupings, poolings and ways down, from any prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hrt_mm.core.causal import KeyValues
from hrt_mm.core.errors import UserError
from hrt_mm.core.hierarchy import Hierarchy, Transformer
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.generation import Cache, prefill, step

GROUPS: dict[str, dict[str, Any]] = {
    "fixed": {"type": "fixed", "stride": 3},
    "given": {"type": "given", "boundary": "words", "max": 5, "typical": 3},
    "uncapped": {"type": "given", "boundary": "words", "typical": 3},
    "learned": {"type": "learned", "target": 2.5, "max": 4},
}
WAYS: dict[str, dict[str, Any]] = {
    "top_down": {"top_down": True},
    "down": {"cross_scale": {"down": True}},
    "both": {"top_down": True, "cross_scale": {"down": True}},
}


def build(pool: str, group: str, way: str, *, second: str = "fixed", window: int | None = 2, **more: Any) -> Hierarchy:
    sliding = {} if window is None else {"window": window, "window_type": "sliding"}
    levels = [
        {"name": "fine", "dim": 12, "heads": 2, "depth": 1, "pool": pool, "group": GROUPS[group], "window": 3},
        {"name": "mid", "dim": 16, "heads": 2, "kv_heads": 1, "depth": 2, "pool": pool, "group": GROUPS[second]}
        | sliding,
        {"name": "coarse", "dim": 12, "heads": 1, "depth": 1},
    ]
    levels[0]["window_type"] = "sliding"
    config = HierarchyConfig.model_validate({"levels": levels, "causal": True, **WAYS[way], **more})
    return awake(Hierarchy(config))


def awake(model: Hierarchy) -> Hierarchy:
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.double().eval()


def batch(lengths: Sequence[int], dim: int = 12) -> Tokens:
    generator = torch.Generator().manual_seed(3)
    spans = Spans.from_lengths(lengths)
    x = torch.randn(spans.total, dim, generator=generator, dtype=torch.float64)
    words = torch.rand(spans.total, generator=generator) < 0.4
    words[spans.host[:-1][spans.lengths > 0]] = True
    return Tokens(x, spans, spans.positions[:, None].float(), boundaries={"words": words})


def beginning(tokens: Tokens, counts: Sequence[int]) -> Tokens:
    """The first tokens of each sample."""
    rows = torch.cat([start + torch.arange(count) for start, count in zip(tokens.spans.host, counts, strict=False)])
    spans = Spans.from_lengths(counts)
    masks = {name: mask[rows] for name, mask in tokens.boundaries.items()}
    return Tokens(tokens.x[rows], spans, spans.positions[:, None].float(), boundaries=masks)


def stepped(model: Hierarchy, tokens: Tokens, prompt: Sequence[int], *, cache: Cache | None = None) -> list[Tensor]:
    """What each sample's tokens after its prompt give, stepped through; samples end when they run out of tokens."""
    if cache is None:
        cache = prefill(model, beginning(tokens, prompt))[1] if sum(prompt) else Cache(model, len(tokens))
    lengths, first = tokens.spans.lengths.tolist(), tokens.spans.host.tolist()
    alive = list(range(len(tokens)))
    at = list(prompt)
    result: list[list[Tensor]] = [[] for _ in alive]
    while True:
        staying = [row for row, sample in enumerate(alive) if at[sample] < lengths[sample]]
        if not staying:
            return [torch.stack(rows) if rows else tokens.x[:0] for rows in result]
        if len(staying) < len(alive):
            cache.select(staying)
            alive = [alive[row] for row in staying]
        positions = [first[sample] + at[sample] for sample in alive]
        starts = {name: mask[positions].numpy() for name, mask in tokens.boundaries.items()}
        for sample, row in zip(alive, step(model, tokens.x[positions], cache, starts), strict=True):
            result[sample].append(row)
            at[sample] += 1


def check(model: Hierarchy, tokens: Tokens, prompt: Sequence[int]) -> float:
    """The largest difference from the forward pass."""
    whole = model(tokens)[0].split()
    parts = stepped(model, tokens, prompt)
    return max(
        float((item[count:] - part).abs().max())
        for item, part, count in zip(whole, parts, prompt, strict=True)
        if len(part)
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_every_position_of_a_ragged_batch(pool: str, group: str, way: str) -> None:
    model = build(pool, group, way)
    tokens = batch([40, 1, 17, 33])
    with torch.no_grad():
        assert check(model, tokens, [0, 0, 0, 0]) < 1e-7
        assert check(model, tokens, [13, 1, 5, 3]) < 1e-7


@pytest.mark.parametrize(
    ("group", "second"), list(product(("fixed", "given", "learned"), ("given", "learned", "uncapped")))
)
@pytest.mark.parametrize("pool", ["attention", "select"])
def test_groups_over_groups(pool: str, group: str, second: str) -> None:
    model = build(pool, group, "both", second=second, window=None)
    with torch.no_grad():
        assert check(model, batch([50, 21, 37]), [0, 0, 0]) < 1e-7
        assert check(model, batch([50, 21, 37]), [22, 7, 36]) < 1e-7


SMOOTH = {"type": "learned", "target": 2.5, "max": 4, "smooth": True}


@pytest.mark.parametrize("way", ["top_down", "both"])
@pytest.mark.parametrize("second", ["fixed", "smooth"])
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_smoothed_groups(pool: str, second: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "smooth", SMOOTH)
    model = build(pool, "smooth", way, second=second)
    tokens = batch([40, 1, 17, 33])
    with torch.no_grad():
        assert check(model, tokens, [0, 0, 0, 0]) < 1e-7
        assert check(model, tokens, [13, 1, 5, 3]) < 1e-7
        for count in range(1, 24) if way == "top_down" else ():
            assert check(model, batch([28, 26]), [count, 24 - count]) < 1e-7, count


@pytest.mark.parametrize("pool", ["mean", "select"])
@pytest.mark.parametrize("group", GROUPS)
def test_every_length_of_a_prompt(pool: str, group: str) -> None:
    """One token, and just before, at and after the ends of groups of both levels."""
    model = build(pool, group, "both")
    with torch.no_grad():
        for count in range(1, 24):
            assert check(model, batch([28, 26]), [count, 24 - count]) < 1e-7, count


def test_the_flat_control_and_its_cache_past_the_room_it_starts_with() -> None:
    level = Level(name="tokens", dim=12, heads=2, kv_heads=1, depth=2)
    model = awake(Transformer(level, causal=True))
    with torch.no_grad():
        assert check(model, batch([300, 280]), [3, 270]) < 1e-7


def test_in_float32() -> None:
    model = build("conv", "learned", "both").float()
    tokens = batch([60, 41])
    with torch.no_grad():
        assert check(model, tokens.with_x(tokens.x.float()), [30, 8]) < 1e-4


def test_after_saving_and_loading(tmp_path: Path) -> None:
    model, tokens = build("attention", "learned", "both"), batch([30, 20])
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = Hierarchy(model.config).double().eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        whole = model(tokens)[0].split()
        for item, part in zip(whole, stepped(other, tokens, [4, 4]), strict=True):
            assert (item[4:] - part).abs().max() < 1e-7


def test_samples_may_change_places() -> None:
    model, tokens = build("mean", "given", "both"), batch([20, 30, 25])
    with torch.no_grad():
        whole = model(tokens)[0].split()
        _, cache = prefill(model, beginning(tokens, [9, 12, 5]))
        cache.select([2, 0])
        positions = [int(tokens.spans.host[2]) + 5, 9]
        starts = {"words": tokens.boundaries["words"][positions].numpy()}
        out = step(model, tokens.x[positions], cache, starts)
        assert (out - torch.stack([whole[2][5], whole[0][9]])).abs().max() < 1e-7


def test_what_a_window_keeps_does_not_grow() -> None:
    model = build("mean", "fixed", "both")
    _, cache = prefill(model, batch([50]))
    held = [[kept.nbytes for kept in [*level.encoder, *level.decoder]] for level in cache.levels[:2]]
    for _ in range(60):
        step(model, torch.randn(1, 12, dtype=torch.float64), cache, {"words": np.array([True])})
    assert [[kept.nbytes for kept in [*level.encoder, *level.decoder]] for level in cache.levels[:2]] == held
    assert cache.nbytes > sum(map(sum, held))


def test_smoothed_samples_may_change_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "smooth", SMOOTH)
    model, tokens = build("mean", "smooth", "both"), batch([20, 30, 25])
    with torch.no_grad():
        whole = model(tokens)[0].split()
        _, cache = prefill(model, beginning(tokens, [9, 12, 5]))
        cache.select([2, 0])
        for ahead in range(11):
            positions = [int(tokens.spans.host[2]) + 5 + ahead, 9 + ahead]
            out = step(model, tokens.x[positions], cache, {"words": tokens.boundaries["words"][positions].numpy()})
            assert (out - torch.stack([whole[2][5 + ahead], whole[0][9 + ahead]])).abs().max() < 1e-7


@pytest.mark.parametrize("wrong", ["ring", "lead", "count", "open"])
def test_a_wrong_cache_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the tests above can fail."""
    model, tokens = build("mean", "fixed", "top_down"), batch([30])
    with torch.no_grad():
        cache = prefill(model, beginning(tokens, [11]))[1]
        if wrong == "ring":
            monkeypatch.setattr(KeyValues, "append", lambda *args: None)
        elif wrong == "lead":
            assert cache.levels[0].back_BD is not None
            cache.levels[0].back_BD.zero_()
        elif wrong == "count":
            cache.levels[1].count_B += 1
        else:
            assert cache.levels[0].open is not None
            cache.levels[0].open.x_BSD.zero_()
        (own,) = stepped(model, tokens, [11], cache=cache)
        assert (model(tokens)[0].x[11:] - own).abs().max() > 1e-3


def test_only_causal_models_step() -> None:
    config = HierarchyConfig(levels=(Level(name="a", dim=8, heads=1),))
    with pytest.raises(UserError, match="only a causal hierarchy over one axis can step"):
        Cache(Hierarchy(config), 1)


def test_prefill_leaves_the_model_as_it_was() -> None:
    model, tokens = build("mean", "learned", "both"), batch([12])
    before = {name: vars(module).get("attend") for name, module in model.named_modules()}
    with torch.no_grad():
        whole = model(tokens)[0].x
        pyramid, _ = prefill(model, tokens)
    # The prompt's last group is still open and not computed, and products of other sizes are rounded differently.
    assert (pyramid[0].x - whole).abs().max() < 1e-12
    assert torch.equal(model(tokens)[0].x, whole)
    assert {name: vars(module).get("attend") for name, module in model.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("way", WAYS)
def test_sizes_written_as_lists_of_one(way: str) -> None:
    """They are the same as plain numbers, for windows of all ways and for strides."""
    plain = build("mean", "fixed", way).config
    levels = [level.model_dump() for level in plain.levels]
    levels[0] |= {"window": [3], "group": {"type": "fixed", "stride": [3]}}
    levels[1] |= {"window": [2]}
    model = awake(Hierarchy(HierarchyConfig.model_validate(plain.model_dump() | {"levels": levels})))
    with torch.no_grad():
        assert check(model, batch([40, 17]), [0, 0]) < 1e-7
        assert check(model, batch([40, 17]), [13, 5]) < 1e-7
