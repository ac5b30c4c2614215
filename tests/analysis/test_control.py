"""The flat control: one level, the same blocks, as deep, and as many parameters within 1 %."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hrt_mm.analysis.control import flat_control, num_parameters
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens

Configure = Callable[..., HierarchyConfig]


def pyramid(dim: int, depth: int, growth: float = 2, **kwargs: Any) -> HierarchyConfig:
    heads = max(1, dim // 16)
    levels = [
        {"name": name, "dim": round(dim * growth**index), "heads": round(heads * growth**index), "depth": depth}
        for index, name in enumerate(("fine", "mid", "coarse"))
    ]
    for level in levels[:-1]:
        level["group"] = {"type": "fixed", "stride": 2}
    return HierarchyConfig.model_validate({"levels": levels} | kwargs)


@pytest.mark.parametrize(
    "extra", [{}, {"cross_scale": {"up": True, "down": True}, "top_down": True}], ids=["up", "all"]
)
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dim", [24, 32, 48, 64, 128, 192])
@pytest.mark.parametrize("growth", [1, 2])
def test_parameters_within_one_percent(dim: int, depth: int, growth: float, extra: dict[str, Any]) -> None:
    config = pyramid(dim, depth, growth, **extra)
    flat = flat_control(config)
    assert len(flat.levels) == 1
    target = num_parameters(config)
    assert abs(num_parameters(flat) / target - 1) <= 0.01
    assert flat.levels[0].depth == 3 * depth + (2 if extra else 0)
    head = config.levels[0].head_dim
    assert flat.levels[0].head_dim == head if dim >= 64 else head / 2 <= flat.levels[0].head_dim <= 2 * head
    assert flat.levels[0].window is None


def test_the_count_is_that_of_the_module(configure: Configure) -> None:
    config = configure("conv", "learned", axes=2)
    assert num_parameters(config, 2) == sum(parameter.numel() for parameter in Hierarchy(config, 2).parameters())


def test_the_control_takes_over_what_is_not_of_levels() -> None:
    config = pyramid(32, 2, causal=True, drop_path=0.1, dropout=0.2, rope_theta=50.0, activation_checkpointing=True)
    flat = flat_control(config)
    assert (flat.causal, flat.drop_path, flat.dropout, flat.rope_theta) == (True, 0.1, 0.2, 50.0)
    assert flat.activation_checkpointing
    assert flat_control(pyramid(32, 2, backend="sdpa")).backend == "sdpa"


def test_the_control_runs_on_the_same_tokens() -> None:
    flat = Hierarchy(flat_control(pyramid(32, 1)))
    tokens = Tokens.pack([torch.randn(9, flat.config.levels[0].dim)])
    assert flat(tokens).pooled().shape == (1, flat.config.levels[0].dim)


def test_a_hierarchy_without_blocks_has_no_control() -> None:
    with pytest.raises(ConfigError, match="the hierarchy has no blocks; give a level a depth of 1 or more"):
        flat_control(pyramid(32, 0))


def test_an_impossible_tolerance_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no flat transformer of depth 3 and head width near 16 .* within 0%"):
        flat_control(pyramid(32, 1), tolerance=0.0)
