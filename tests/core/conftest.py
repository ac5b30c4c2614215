"""Small hierarchies with every branch awake, and batches of odd samples for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.grids import nested_coords
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

GROUPS: dict[str, dict[str, Any]] = {
    "fixed": {"type": "fixed", "stride": 3},
    "given": {"type": "given", "boundary": "words", "max": 5, "typical": 3},
    "learned": {"type": "learned", "target": 2.5, "max": 4},
}


def _configure(
    pool: str = "mean", group: str = "fixed", *, causal: bool = False, axes: int = 1, **kwargs: Any
) -> HierarchyConfig:
    """Three levels with all paths between them, windows on the fine two."""
    grid = axes > 1
    sliding = {"window_type": "sliding"} if causal else {}
    fine: dict[str, Any] = {"window": 2, **sliding} if causal else {"window": 6}
    mid: dict[str, Any] = {"window": 2, **sliding} if causal else {"window": 4, "window_type": "shifted"}
    if grid:
        fine, mid = ({}, {}) if causal else ({"window": 6}, {} if group == "fixed" else {"window": 4})
    settings = {
        "levels": (
            {"name": "fine", "dim": 12, "heads": 2, "depth": 1, "pool": pool, "group": GROUPS[group]} | fine,
            {"name": "mid", "dim": 16, "heads": 2, "kv_heads": 1, "depth": 2, "pool": pool}
            | {"group": {"type": "fixed", "stride": 2}}
            | mid,
            {"name": "coarse", "dim": 12, "heads": 1, "depth": 1},
        ),
        "cross_scale": {"up": True, "down": True},
        "top_down": True,
        "causal": causal,
    }
    return HierarchyConfig.model_validate(settings | kwargs)


def _awake(model: torch.nn.Module) -> None:
    """All parameters off their starting values: branches that start at zero would hide what they do."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * scale


def _build(config: HierarchyConfig, axes: int = 1, dtype: torch.dtype = torch.float64) -> Hierarchy:
    model = Hierarchy(config, axes).to(dtype)
    _awake(model)
    return model.eval()


def _pack(samples: Sequence[tuple[int, ...]], model: Hierarchy, seed: int = 0) -> Tokens:
    """Samples of these sizes along each axis, with words that start at random."""
    return _batch([_sample(shape, model, seed + index) for index, shape in enumerate(samples)])


def _sample(shape: tuple[int, ...], model: Hierarchy, seed: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    dtype = next(model.parameters()).dtype
    x = torch.randn(count, model.config.levels[0].dim, generator=generator).to(dtype)
    words = torch.rand(count, generator=generator) < 0.4
    spans = Spans.from_lengths([count])
    if model.axes == 1:
        return Tokens(x, spans, torch.arange(count)[:, None].float(), boundaries={"words": words})
    coords = nested_coords(shape, model.blocks)
    return Tokens(x, spans, coords, (shape,), {"words": words})


def _batch(samples: Sequence[Tokens]) -> Tokens:
    grids = [one.grids for one in samples]
    return Tokens(
        torch.cat([one.x for one in samples]),
        Spans.concat([one.spans for one in samples]),
        torch.cat([one.coords_TC for one in samples]),
        tuple(shape for grid in grids if grid for shape in grid) if all(grids) else None,
        {"words": torch.cat([one.boundaries["words"] for one in samples])},
    )


def _unpack(tokens: Tokens) -> list[Tokens]:
    words = tokens.spans.split(tokens.boundaries["words"])
    coords = tokens.spans.split(tokens.coords_TC)
    grids: Sequence[tuple[tuple[int, ...], ...] | None]
    grids = [(shape,) for shape in tokens.grids] if tokens.grids else [None] * len(tokens)
    return [
        Tokens(x, Spans.from_lengths([len(x)]), coord, grid, {"words": word})
        for x, coord, grid, word in zip(tokens.split(), coords, grids, words, strict=True)
    ]


@pytest.fixture(scope="session")
def configure() -> Callable[..., HierarchyConfig]:
    """A configuration of three levels: pooling, kind of groups, causal, axes, and fields to set over it."""
    return _configure


@pytest.fixture(scope="session")
def build() -> Callable[..., Hierarchy]:
    """A hierarchy in float64 whose parameters are all random."""
    return _build


@pytest.fixture(scope="session")
def awake() -> Callable[[torch.nn.Module], None]:
    """Makes all parameters random."""
    return _awake


@pytest.fixture(scope="session")
def pack() -> Callable[..., Tokens]:
    """Random samples of given sizes for a hierarchy."""
    return _pack


@pytest.fixture(scope="session")
def batch() -> Callable[[Sequence[Tokens]], Tokens]:
    """Batches laid back to back."""
    return _batch


@pytest.fixture(scope="session")
def unpack() -> Callable[[Tokens], list[Tokens]]:
    """A batch as batches of one sample."""
    return _unpack


SHAPES: dict[int, list[tuple[int, ...]]] = {
    1: [(7,), (1,), (0,), (13,), (5,)],
    2: [(5, 7), (1, 1), (4, 4), (1, 9)],
    3: [(3, 4, 2), (1, 1, 1), (2, 5, 3)],
}


@pytest.fixture(scope="session")
def shapes() -> dict[int, list[tuple[int, ...]]]:
    """Odd sample sizes for each number of axes."""
    return SHAPES


@pytest.fixture
def weights() -> Callable[[Tensor], Tensor]:
    """Fixed random weights in a tensor's shape, to make a scalar of it."""
    return lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x.dtype)
