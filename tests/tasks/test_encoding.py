from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import Batch, ClassificationConfig, Task
from hrt_mm.tasks.encoder import Encoder
from hrt_mm.tasks.encoding import check_reads

Make = Callable[..., HierarchyConfig]
READS = [list(reads) for size in (1, 2, 3) for reads in itertools.combinations(range(3), size)]
PATHS = list(itertools.product([False, True], repeat=3))


def accepted(config: HierarchyConfig, reads: Sequence[int]) -> bool:
    try:
        check_reads(config, reads)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("reads", READS, ids=str)
@pytest.mark.parametrize(("up", "down", "top_down"), PATHS)
def test_a_model_is_accepted_when_every_parameter_is_used(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], reads: list[int], up: bool, down: bool, top_down: bool
) -> None:
    config = hierarchy(cross_scale={"up": up, "down": down}, top_down=top_down)
    encoder = Encoder(config, rows)
    pyramid = encoder(rows(samples))
    torch.stack([pyramid[level].x.square().sum() for level in reads]).sum().backward()
    unused = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert accepted(config, reads) == (not unused), unused


def build(tokenizer: Tokenizer, model: HierarchyConfig, **options: Any) -> Task:
    config = ClassificationConfig.model_validate({"type": "classification", **options})
    return config.build(model, tokenizer, ("x", "y"))


@pytest.mark.parametrize(
    ("model", "level", "message"),
    [
        (
            {},
            "a",
            r"level 'c' lies above all that the task reads \('a'\).*set model.top_down or model.cross_scale.down",
        ),
        (
            {"top_down": True},
            "c",
            r"model.top_down carries coarse levels down to 'a'.*reads only 'c'; drop it, read 'a'",
        ),
        ({"cross_scale": {"down": True}}, ("b", "c"), r"model.cross_scale.down carries .* reads only 'b', 'c'"),
        ({"cross_scale": {"up": True}}, "a", r"model.cross_scale.up is the last pass, into level 'c'.*reads only 'a'"),
        ({}, "d", r"unknown level 'd'; one of a, b, c"),
        ({}, ("c", "c"), r"task.level names a level twice: c, c"),
    ],
)
def test_what_would_train_nothing_is_named(
    hierarchy: Make, rows: Tokenizer, model: dict[str, Any], level: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(rows, hierarchy(**model), level=level)


def test_parameters_know_their_level(hierarchy: Make, rows: Tokenizer) -> None:
    model = hierarchy(cross_scale={"up": True, "down": True})
    task = build(rows, model)
    levels = task.parameter_levels()
    assert set(levels) == {name for name, _ in task.named_parameters()}
    assert levels["encoder.embedding.project.weight"] is None
    assert levels["head.weight"] is None
    assert levels["encoder.hierarchy.stages.2.encoder.0.mlp.down.weight"] == 2
    assert levels["encoder.hierarchy.up.1.gate_D"] == 2
    assert task.lr_scales() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("broken", "index"),
    [
        ("encoder.embedding.project", "the embedding (encoder.embedding.project)"),
        ("encoder.hierarchy.stages.0.encoder.0.mlp.up", "level 'a' (encoder.hierarchy.stages.0.encoder.0.mlp.up)"),
        ("encoder.hierarchy.transitions.0.merge", "level 'a' (encoder.hierarchy.transitions.0.merge)"),
        ("encoder.hierarchy.stages.1.encoder.0.attention.out", "level 'b' "),
        ("encoder.hierarchy.stages.2.encoder.0.mlp.down", "level 'c' "),
        ("encoder.hierarchy.down.1.key_value", "level 'b' (encoder.hierarchy.down.1.key_value)"),
        ("encoder.hierarchy.up.0.query", "level 'b' (encoder.hierarchy.up.0.query)"),
        ("head", "the head (head)"),
    ],
)
def test_the_first_place_that_is_not_finite(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], broken: str, index: str
) -> None:
    task = build(rows, hierarchy(cross_scale={"up": True, "down": True}))
    module = task.get_submodule(broken)
    assert isinstance(module, nn.Linear)
    nn.init.constant_(module.weight, float("nan"))
    batch = Batch.of(rows(samples), torch.tensor([0, 1, 0, 1]), ("p", "q", "r", "s"))
    assert task.nonfinite_source(batch).startswith(index)


def test_an_input_that_is_not_finite_is_named(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = build(rows, hierarchy())
    samples[2][3, 1] = float("inf")
    target = torch.tensor([0, 1, 0, 1])
    assert task.nonfinite_source(Batch.of(rows(samples), target, ("p", "q", "r", "s"))) == "the input (r)"
    assert task.nonfinite_source(Batch.of(rows(samples), target)) == "the input (sample 2 of the batch)"


def test_looking_leaves_no_hooks(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = build(rows, hierarchy())
    assert task.nonfinite_source(Batch.of(rows(samples), torch.tensor([0, 1, 0, 1]))) == "the loss"
    assert not any(module._forward_hooks for module in task.modules())
