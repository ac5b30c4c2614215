"""Which input has a part in which output, for each kind of window and each path between levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import BackendError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

Build = Callable[..., Hierarchy]
Pack = Callable[..., Tokens]


def flat(build: Build, axes: int = 1, **kwargs: Any) -> Hierarchy:
    level = {"name": "fine", "dim": 8, "heads": 2, "depth": 1} | kwargs
    return build(HierarchyConfig.model_validate({"levels": (level,)}), axes)


def seen(model: Hierarchy, tokens: Tokens, level: str = "fine") -> Tensor:
    """(outputs, inputs) bool: where d out / d in is not zero."""
    x = tokens.x.detach().requires_grad_()
    out = model(tokens.with_x(x))[level].x
    weight = torch.randn_like(out)
    rows = [torch.autograd.grad(row, x, retain_graph=True)[0].abs().sum(-1) > 0 for row in (out * weight).sum(-1)]
    return torch.stack(rows)


def alike(label_T: Tensor) -> Tensor:
    return label_T[:, None] == label_T[None]


def test_blocks_do_not_see_each_other(build: Build, pack: Pack) -> None:
    model = flat(build, window=4)
    tokens = pack([(10,), (3,)], model)
    assert torch.equal(seen(model, tokens), alike(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3])))


def test_without_a_window_a_sample_sees_itself(build: Build, pack: Pack) -> None:
    model = flat(build)
    tokens = pack([(10,), (3,)], model)
    assert torch.equal(seen(model, tokens), alike(tokens.spans.ids))


def test_every_other_layer_shifts_its_blocks_by_half(build: Build, pack: Pack) -> None:
    model = flat(build, window=4, window_type="shifted", depth=2)
    tokens = pack([(10,), (3,)], model)
    first = alike(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3]))
    second = alike(torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4]))
    assert torch.equal(seen(model, tokens), (second.float() @ first.float()) > 0)


@pytest.mark.parametrize("window", [1, 3])
def test_a_sliding_window_is_centred_on_its_token(window: int, build: Build, pack: Pack) -> None:
    model = flat(build, window=window, window_type="sliding")
    tokens = pack([(60,), (3,)], model)
    index = torch.arange(63)
    near = (index[:, None] - index[None]).abs() <= window
    assert torch.equal(seen(model, tokens), near & alike(tokens.spans.ids))


def test_a_grid_sees_its_block(build: Build, pack: Pack) -> None:
    for axes, shape in ((2, (5, 7)), (3, (3, 4, 5))):
        model = flat(build, axes, window=4 if axes == 2 else 2, heads=1)
        tokens = pack([shape], model)
        block = (tokens.coords_TC // (4 if axes == 2 else 2)).long()
        label = (block * torch.tensor([100, 10, 1][:axes])).sum(1)
        assert torch.equal(seen(model, tokens), alike(label))


def pair(build: Build, coarse: dict[str, Any] | None = None, **kwargs: Any) -> Hierarchy:
    """Two levels without blocks: what is seen, is seen through the paths between them."""
    levels = (
        {"name": "fine", "dim": 8, "heads": 1, "depth": 0, "decoder_depth": 0, "group": {"type": "fixed", "stride": 3}},
        {"name": "coarse", "dim": 8, "heads": 1, "depth": 0} | (coarse or {}),
    )
    return build(HierarchyConfig.model_validate({"levels": levels} | kwargs))


LENGTHS = [(14,), (0,), (4,)]


def groups_of(tokens: Tokens) -> Tensor:
    return tokens.spans.cut(3).ids


def test_top_down_gives_each_token_its_group(build: Build, pack: Pack) -> None:
    model = pair(build, top_down=True)
    tokens = pack(LENGTHS, model)
    assert torch.equal(seen(model, tokens), alike(groups_of(tokens)))


def test_down_sees_all_groups_of_the_sample(build: Build, pack: Pack) -> None:
    model = pair(build, cross_scale={"down": True})
    tokens = pack(LENGTHS, model)
    assert torch.equal(seen(model, tokens), alike(tokens.spans.ids))


@pytest.mark.parametrize("window_type", ["block", "sliding"])
def test_down_stays_within_the_coarse_windows(window_type: str, build: Build, pack: Pack) -> None:
    model = pair(build, {"window": 2, "window_type": window_type}, cross_scale={"down": True})
    tokens = pack(LENGTHS, model)
    assert torch.equal(seen(model, tokens), alike(tokens.spans.cut(6).ids))


def test_up_sees_its_group(build: Build, pack: Pack) -> None:
    model = pair(build, cross_scale={"up": True})
    tokens = pack(LENGTHS, model)
    groups = groups_of(tokens)
    assert torch.equal(seen(model, tokens, "coarse"), torch.arange(7)[:, None] == groups[None])


@pytest.mark.parametrize(("pool", "own"), [("mean", False), ("select", True)])
def test_causal_paths_see_the_groups_before(pool: str, own: bool, build: Build, pack: Pack) -> None:
    for paths in ({"cross_scale": {"down": True}}, {"top_down": True}):
        levels = pair(build, causal=True, **paths).config.model_dump()
        levels["levels"][0]["pool"] = pool
        model = build(HierarchyConfig.model_validate(levels))
        tokens = pack(LENGTHS, model)
        groups, index = groups_of(tokens), torch.arange(18)
        back = groups[:, None] - groups[None]
        before = (back == int(not own)) if "top_down" in paths else (back >= int(not own))
        if pool == "select":
            firsts = tokens.spans.cut(3).positions == 0
            before = before & firsts[None]
        want = (before & alike(tokens.spans.ids)) | (index[:, None] == index[None])
        assert torch.equal(seen(model, tokens), want), paths


def test_positions_turn_queries_and_keys_alone(build: Build, pack: Pack) -> None:
    """A mean of rotated keys cancels them: nothing that is pooled knows where it lies."""
    for pool in ("mean", "max", "conv", "haar", "select"):
        config = pair(build).config.model_dump()
        config["levels"][0]["pool"] = pool
        model = build(HierarchyConfig.model_validate(config))
        tokens = pack(LENGTHS, model)
        moved = Tokens(tokens.x, tokens.spans, tokens.coords_TC * 7 + 3, boundaries=tokens.boundaries)
        assert torch.equal(model(moved)["coarse"].x, model(tokens)["coarse"].x)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_where_a_sample_lies_does_not_matter(
    axes: int, configure: Callable[..., HierarchyConfig], build: Build, pack: Pack
) -> None:
    model = build(configure("attention", axes=axes), axes)
    tokens = pack([(13,)] if axes == 1 else [(5, 7)] if axes == 2 else [(3, 4, 2)], model)
    moved = Tokens(tokens.x, tokens.spans, tokens.coords_TC + 17, tokens.grids, tokens.boundaries)
    stretched = Tokens(tokens.x, tokens.spans, tokens.coords_TC * 2, tokens.grids, tokens.boundaries)
    out = model(tokens)
    for name in out.names:
        torch.testing.assert_close(model(moved)[name].x, out[name].x, atol=1e-4, rtol=1e-4)
        assert (model(stretched)[name].x - out[name].x).abs().max() > 1e-2


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_a_forced_backend_that_cannot_serve_raises(build: Build, pack: Pack) -> None:
    model = build(
        HierarchyConfig.model_validate({"levels": ({"name": "a", "dim": 8, "heads": 1},), "backend": "varlen"})
    )
    with pytest.raises(BackendError, match=r"attention backend 'varlen' cannot serve: .*; able here: auto, sdpa"):
        model(pack([(4,)], model))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_the_reference_backend_gives_the_same(
    causal: bool, configure: Callable[..., HierarchyConfig], build: Build, pack: Pack
) -> None:
    outputs = []
    for backend in ("auto", "reference"):
        model = build(configure("attention", "learned", causal=causal, backend=backend))
        outputs.append(model(pack([(13,), (1,), (0,), (9,)], model)))
    for name in outputs[0].names:
        torch.testing.assert_close(outputs[1][name].x, outputs[0][name].x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("group", ["fixed", "given", "learned"])
def test_cuda_gives_the_same(
    group: str,
    causal: bool,
    axes: int,
    configure: Callable[..., HierarchyConfig],
    build: Build,
    pack: Pack,
    shapes: dict[int, list[tuple[int, ...]]],
) -> None:
    config = configure("attention", group, causal=causal, axes=axes)
    model = build(config, axes, torch.float32)
    on_gpu = build(config, axes, torch.float32).cuda()
    tokens = pack(shapes[axes], model)
    want, got = model(tokens), on_gpu(tokens.to("cuda"))
    for name in want.names:
        torch.testing.assert_close(got[name].x.cpu(), want[name].x, atol=1e-3, rtol=1e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = on_gpu(tokens.to("cuda"))
    torch.stack([half[name].x.float().square().sum() for name in half.names]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in on_gpu.parameters())
    if group != "learned":
        off = (half["fine"].x.float().cpu() - want["fine"].x).norm() / want["fine"].x.norm()
        assert off < 0.05


def test_spans_of_one_device_stay_there() -> None:
    # Not the default device, so that offsets which are made without regard to it are found.
    spans = Spans.from_lengths([2, 3], "meta")
    for derived in (spans.cut(2), spans.coarsen(spans.cut(2))):
        assert derived.device == derived.cu_seqlens.device == torch.device("meta")
