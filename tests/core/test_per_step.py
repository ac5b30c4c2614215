"""What a model counts, it counts once a training step: over batches, chunks, towers and recomputed activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.per_step import training_step
from hrt_mm.core.routing import Router
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.tasks import Contrastive, ContrastiveConfig
from tests.tasks.conftest import Rows, unzero

LEARNED = {"type": "learned", "target": 6, "max": 8, "warmup": 10, "weight": 0.5}


def config(**options: Any) -> HierarchyConfig:
    levels = [
        {"name": "a", "dim": 8, "depth": 1, "heads": 2, "group": LEARNED},
        {"name": "b", "dim": 8, "depth": 1, "heads": 2},
    ]
    return HierarchyConfig.model_validate({"levels": levels, **options})


def router_of(hierarchy: Hierarchy) -> Router:
    router = hierarchy.transitions[0].get_submodule("router")
    assert isinstance(router, Router)
    return router


def built(**options: Any) -> Hierarchy:
    torch.manual_seed(0)
    made = Hierarchy(config(**options)).train()
    unzero(made)
    return made


def batch(seed: int = 1) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens.pack([torch.randn(length, 8, generator=generator) for length in (9, 14)])


def loss_of(model: Hierarchy, x: Tensor, tokens: Tokens) -> Tensor:
    pyramid = model(tokens.with_x(x))
    return pyramid["b"].x.square().sum() * 0.1 + torch.stack(list(pyramid.losses.values())).sum()


def gradient(model: Hierarchy) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_recomputed_activations_count_once_and_pull_as_the_first_ones_did() -> None:
    plain, blocks, whole = built(), built(activation_checkpointing=True), built()
    for step in range(1, 4):
        tokens = batch(step)
        for model in (plain, blocks, whole):
            model.zero_grad()
        loss_of(plain, tokens.x, tokens).backward()
        loss_of(blocks, tokens.x, tokens).backward()
        checkpoint(loss_of, whole, tokens.x, tokens, use_reentrant=False).backward()
        for model in (plain, blocks, whole):
            assert int(router_of(model).batches) == step
            torch.testing.assert_close(gradient(model), gradient(plain), rtol=0, atol=0)


def test_batches_of_a_step_count_once() -> None:
    model = built()
    for step in range(1, 4):
        with training_step(model), training_step(model.transitions):
            for seed in range(3):
                loss_of(model, batch(seed).x, batch(seed)).backward()
                assert int(router_of(model).batches) == step
    model.eval()
    with training_step(model):
        model(batch())
    assert int(router_of(model).batches) == 3


def test_a_step_that_fails_leaves_the_next_one_whole() -> None:
    model = built()
    with pytest.raises(ZeroDivisionError), training_step(model):
        raise ZeroDivisionError
    assert not router_of(model).in_training_step
    model(batch())
    assert int(router_of(model).batches) == 2


@pytest.mark.parametrize("shared", [{}, {"right": "left"}], ids=["own", "shared"])
def test_chunks_and_towers_count_once_and_have_the_gradient_of_the_whole(shared: dict[str, str]) -> None:
    result = []
    samples = []
    for index in range(6):
        generator = torch.Generator().manual_seed(index)
        value = {side: torch.randn(7 + index, 4, generator=generator) for side in ("left", "right")}
        samples.append(Sample(value, None, f"s{index}"))
    towers = {"left": Rows(), "right": Rows()}
    for chunk in (None, 6, 2):
        torch.manual_seed(0)
        given = ContrastiveConfig.model_validate({"type": "contrastive", "dim": 8, "chunk": chunk, "shared": shared})
        task = given.build_towers({"left": config(), "right": config()}, towers, None)
        assert isinstance(task, Contrastive)
        unzero(task)
        task.train()
        for step in range(1, 4):
            task.zero_grad()
            output = task(given.collator({}, towers, None)(samples))
            output.loss.backward()
            routers = [module for module in task.modules() if isinstance(module, Router)]
            assert [int(router.batches) for router in routers] == [step] * (2 - len(shared))
        contrast = output.parts["left_right"]
        result.append((contrast, [router.current_target() for router in routers]))
    assert result[0][1] == result[1][1] == result[2][1]
    torch.testing.assert_close(result[0][0], result[2][0])
