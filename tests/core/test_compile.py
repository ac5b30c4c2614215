"""``torch.compile`` traces a hierarchy around its plans: same numbers, and ragged batches soon compile nothing new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens

# The tracer looks at the gradients of what it traces.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

Build = Callable[..., Hierarchy]
LEVELS: tuple[dict[str, Any], ...] = (
    {"name": "fine", "dim": 8, "heads": 1, "depth": 2, "window": 4, "group": {"type": "fixed", "stride": 4}},
    {"name": "coarse", "dim": 8, "heads": 1, "depth": 1},
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    # Poisoned memory needs deterministic algorithms, which compiled graphs guard on.
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"].get("unique_graphs", 0)


def batch(seed: int, lengths: list[int] | None = None) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    lengths = lengths or torch.randint(3, 30, (3,), generator=generator).tolist()
    return Tokens.pack([torch.randn(length, 8, generator=generator) for length in lengths])


def outputs_and_gradient(model: Callable[[Tokens], Any], tokens: Tokens) -> tuple[Tensor, ...]:
    x = tokens.x.detach().requires_grad_()
    pyramid = model(tokens.with_x(x))
    levels = [pyramid[name].x for name in pyramid.names]
    (grad,) = torch.autograd.grad(
        [level * torch.arange(8) for level in levels], x, [torch.ones_like(x) for x in levels]
    )
    return *levels, grad


def test_ragged_batches(build: Build) -> None:
    model = build(HierarchyConfig.model_validate({"levels": LEVELS, "top_down": True}), dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    seen = []
    for seed in range(5):
        tokens = batch(seed)
        for got, want in zip(outputs_and_gradient(compiled, tokens), outputs_and_gradient(model, tokens), strict=True):
            torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
        seen.append(graphs())
    assert seen[0] > 0, "nothing was compiled"
    # A length of 1, or a batch that happens to be uniform, is a case of its own.
    assert seen[-1] - seen[1] <= 3, f"graphs after each batch: {seen}"


def test_uniform_batches_compile_once(build: Build) -> None:
    model = build(HierarchyConfig.model_validate({"levels": LEVELS}), dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    seen = []
    for seed in range(4):
        tokens = batch(seed, [16, 16, 16])
        with torch.no_grad():
            torch.testing.assert_close(compiled(tokens)["coarse"].x, model(tokens)["coarse"].x, atol=1e-5, rtol=1e-5)
        seen.append(graphs())
    assert seen[0] > 0, "nothing was compiled"
    assert seen[-1] == seen[0], f"graphs after each batch: {seen}"
