from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.analysis.describe.layout import lay_out, sample_of
from hrt_mm.analysis.describe.memory import kept_elements
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import CrossScale, FixedGroups, HierarchyConfig, LearnedGroups, Level
from hrt_mm.core.pooling import POOLINGS


def level(name: str, dim: int, **options: Any) -> Level:
    return Level(name=name, dim=dim, heads=dim // 16, mlp_ratio=2, **options)


def pyramid(pool: str = "mean", *, group: Any = None, **options: Any) -> HierarchyConfig:
    fine = level("fine", 64, group=group or FixedGroups(stride=4), window=64, pool=pool)
    middle = level("middle", 96, group=FixedGroups(stride=4), window=64, pool=pool)
    return HierarchyConfig(levels=(fine, middle, level("coarse", 128)), backend="sdpa", **options)


def measured(hierarchy: Hierarchy, size: int) -> float:
    """Bytes of the storages that autograd keeps, without weights, over those of a float32."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in hierarchy.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    # Alike tokens: an untrained router sets no boundary between them, so that groups have the longest size.
    features = torch.ones(size, hierarchy.config.levels[0].dim, requires_grad=True)
    tokens = sample_of((size,), hierarchy).with_x(features)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pyramid = hierarchy(tokens)
        loss = torch.stack([tokens.x.square().sum() for tokens in pyramid.tokens.values()]).sum()
        loss = loss + torch.stack([*pyramid.losses.values(), loss]).sum()
        assert loss.requires_grad
    return sum(size for size, _ in kept.values()) / 4


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top_down": {"top_down": True},
    "up": {"cross_scale": CrossScale(up=True)},
    "down": {"cross_scale": CrossScale(down=True)},
    "losses": {"alignment": 1.0, "reconstruction": 1.0},
    "learned": {"group": LearnedGroups(type="learned", target=4, max=4)},
    "smooth": {"group": LearnedGroups(type="learned", target=4, max=4, smooth=True), "top_down": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_estimate_is_near_what_autograd_keeps(options: str) -> None:
    hierarchy = Hierarchy(pyramid(**OPTIONS[options]), 1)
    estimate = sum(kept_elements(hierarchy, lay_out(hierarchy, sample_of((1024,), hierarchy))))
    assert estimate == pytest.approx(measured(hierarchy, 1024), rel=0.15)


@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_estimate_for_every_pooling(pool: str) -> None:
    hierarchy = Hierarchy(pyramid(pool), 1)
    estimate = sum(kept_elements(hierarchy, lay_out(hierarchy, sample_of((1024,), hierarchy))))
    assert estimate == pytest.approx(measured(hierarchy, 1024), rel=0.15)


def test_checkpointing_keeps_a_block_input_and_one_whole_block() -> None:
    plain = Hierarchy(pyramid(), 1)
    saving = Hierarchy(pyramid(activation_checkpointing=True), 1)
    tokens = sample_of((1024,), plain)
    fine, fine_saving = (kept_elements(one, lay_out(one, tokens))[0] for one in (plain, saving))
    assert fine_saving < 0.65 * fine
