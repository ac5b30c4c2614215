"""What decoding is said to keep is what its tensors hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hrt_mm.analysis.describe import describe_model
from hrt_mm.analysis.describe.layout import on_meta, sample_of
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.generation import prefill

FIXED = {"type": "fixed", "stride": 2}
WAYS: dict[str, dict[str, Any]] = {
    "top_down": {"top_down": True},
    "down": {"cross_scale": {"down": True}},
    "both": {"top_down": True, "cross_scale": {"down": True}},
}


def config(way: str, pool: str = "mean", window: int | None = None, **fine: Any) -> HierarchyConfig:
    levels = [
        {"name": "fine", "dim": 8, "heads": 4, "kv_heads": 2, "depth": 2, "window": 5, "window_type": "sliding"}
        | {"decoder_depth": 3, "group": FIXED, "pool": pool}
        | fine,
        {"name": "coarse", "dim": 12, "heads": 2, "depth": 1}
        | ({} if window is None else {"window": window, "window_type": "sliding"}),
    ]
    return HierarchyConfig.model_validate({"levels": levels, "causal": True, **WAYS[way]})


def held(model: HierarchyConfig, length: int) -> int:
    """Elements of a cache after a prompt."""
    spans = Spans.from_lengths([length])
    starts = {"pairs": spans.positions % 2 == 0}
    x = torch.randn(length, model.levels[0].dim)
    _, cache = prefill(Hierarchy(model), Tokens(x, spans, spans.positions[:, None].float(), boundaries=starts))
    return cache.nbytes // 4


@pytest.mark.parametrize("pool", ["mean", "select"])
@pytest.mark.parametrize("way", WAYS)
def test_growth_and_the_rest(way: str, pool: str) -> None:
    """At these lengths nothing has more room than it needs: arrays grew to just what the prompt takes."""
    model = config(way, pool)
    result = describe_model(model, sample_of((4096,), on_meta(model, 1))).cache
    assert result is not None
    short, long = held(model, 2048), held(model, 4096)
    assert long - short == 2048 * result.per_token > 0
    newest = 0 if pool == "select" else 2 * model.levels[1].dim
    assert short + newest == result.constant + 2048 * result.per_token


@pytest.mark.parametrize(
    "group",
    [
        FIXED,
        {"type": "given", "boundary": "pairs", "max": 7},
        {"type": "given", "boundary": "pairs"},
        {"type": "learned", "target": 2, "max": 6},
    ],
    ids=["fixed", "given", "uncapped", "learned"],
)
@pytest.mark.parametrize("way", WAYS)
def test_windows_everywhere_keep_the_same_for_any_length(way: str, group: dict[str, Any]) -> None:
    model = config(way, window=3, group=group)
    result = describe_model(model, sample_of((64,), on_meta(model, 1))).cache
    assert result is not None
    assert result.per_token == 0
    assert held(model, 11) == held(model, 60) == result.constant


def test_smoothed_groups_keep_how_sure_the_last_boundary_was() -> None:
    plain, smooth = (
        config("both", window=3, group={"type": "learned", "target": 2, "max": 6, "smooth": on}) for on in (False, True)
    )
    result = describe_model(smooth, sample_of((64,), on_meta(smooth, 1))).cache
    assert result is not None
    assert held(smooth, 30) == result.constant == held(plain, 30) + 1


def test_it_is_printed_beside_the_flat_transformers() -> None:
    model = config("both", dim=64, heads=4, kv_heads=4)
    result = describe_model(model, sample_of((64,), on_meta(model, 1)))
    assert result.cache is not None and result.flat_cache is not None
    assert result.flat_cache.constant == 0
    (line,) = [line for line in result.text().splitlines() if line.startswith("Decoding keeps")]
    assert f"{4 * result.cache.per_token:.0f} B for each token" in line
    assert "the flat transformer" in line


@pytest.mark.parametrize("axes", [1, 2])
def test_models_that_do_not_decode_say_nothing(axes: int) -> None:
    model = HierarchyConfig.model_validate(config("both", heads=2).model_dump() | {"causal": False})
    levels = [level.model_dump() | {"window": 4, "window_type": "block"} for level in model.levels]
    model = HierarchyConfig.model_validate(model.model_dump() | {"levels": levels})
    result = describe_model(model, sample_of((16,) * axes, on_meta(model, axes)))
    assert result.cache is None
    assert "Decoding" not in result.text()
