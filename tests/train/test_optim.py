from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_mm.train.config import OPTIMIZERS, TIMM_OPTIMIZERS, OptimConfig
from hrt_mm.train.optim import (
    build_optimizer,
    layer_decays,
    load_optimizer_state,
    no_decay_names,
    optimizer_state,
    param_groups,
    scale_gradients,
    set_learning_rate,
)
from tests.train.toy_training import ToyTask, toy_config


def toy_task(dim: int = 8) -> ToyTask:
    config = toy_config(Path("run"), dim=dim)
    task = build_task(config, build_tokenizers(config), ("low", "high"))
    assert isinstance(task, ToyTask)
    return task


def test_groups_by_level_and_by_decay() -> None:
    task = toy_task()
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    config = toy_config(Path("run"), optim={"weight_decay": 0.3}).optim
    groups = {
        (group["lr_scale"], group["weight_decay"]): {names[id(parameter)] for parameter in group["params"]}
        for group in param_groups(task, config)
    }
    assert groups == {
        (1.0, 0.3): {"encoder.embedding.weight", "encoder.numbers.weight"},
        (1.0, 0.0): {"encoder.embedding.bias", "encoder.norm.weight", "encoder.norm.bias", "encoder.numbers.bias"},
        (0.5, 0.3): {"head.weight"},
        (0.5, 0.0): {"head.bias"},
    }


def test_a_level_moves_at_its_own_rate() -> None:
    task = toy_task()
    optimizer = build_optimizer(task, toy_config(Path("run"), optim={"weight_decay": 0}).optim)
    set_learning_rate(optimizer, 0.1)
    before = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # Adam's first step is the rate itself.
    for name, step in (("encoder.numbers.weight", 0.1), ("head.weight", 0.05)):
        torch.testing.assert_close(before[name] - task.get_parameter(name), torch.full_like(before[name], step))


def test_a_module_with_a_rate_of_its_own() -> None:
    task = toy_task()
    config = toy_config(Path("run")).optim
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    object.__setattr__(task.encoder, "lr_scale", 0.1)
    object.__setattr__(task.head, "lr_scale", 0.25)
    scales = {
        names[id(parameter)]: group["lr_scale"] for group in param_groups(task, config) for parameter in group["params"]
    }
    # Relative to the level, which moves at half the rate.
    assert scales["head.weight"] == 0.125
    assert {scale for name, scale in scales.items() if name.startswith("encoder.")} == {0.1}


def test_frozen_parameters_are_left_out() -> None:
    task = toy_task()
    task.head.requires_grad_(False)
    trained = [
        parameter for group in param_groups(task, toy_config(Path("run")).optim) for parameter in group["params"]
    ]
    assert len(trained) == 6


def test_what_freeze_names_is_not_trained() -> None:
    task = toy_task()
    optimizer = build_optimizer(task, toy_config(Path("run"), optim={"freeze": ("encoder.norm", "head.bias")}).optim)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    frozen = {name for name, parameter in task.named_parameters() if id(parameter) not in trained}
    assert frozen == {"encoder.norm.weight", "encoder.norm.bias", "head.bias"}
    assert not any(task.get_parameter(name).requires_grad for name in frozen)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("encoder.nrom",), r"the model has no 'encoder.nrom'; it has encoder.norm"),
        (("enc",), r"the model has no 'enc'"),
        (("encoder", "head"), "encoder, head leaves nothing to train"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(toy_task(), toy_config(Path("run"), optim={"freeze": names}).optim)


def test_modules_name_what_must_not_decay() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)

        def no_weight_decay(self) -> set[str]:
            return {"table.weight"}

    assert no_decay_names(nn.ModuleDict({"words": Table()})) == {"words.table.weight"}
    task = toy_task()
    task.encoder["table"] = words = Table()
    task.parameter_levels = lambda: {name: None for name, _ in task.named_parameters()}  # type: ignore[method-assign]
    plain = [group for group in param_groups(task, toy_config(Path("run")).optim) if not group["weight_decay"]]
    assert any(parameter is words.table.weight for group in plain for parameter in group["params"])


def test_state_goes_through_names_and_back() -> None:
    def trained(steps: int) -> tuple[ToyTask, torch.optim.Optimizer]:
        torch.manual_seed(0)
        task = toy_task()
        optimizer = build_optimizer(task, toy_config(Path("run")).optim)
        for step in range(steps):
            for parameter in task.parameters():
                parameter.grad = torch.full_like(parameter, step + 1.0)
            optimizer.step()
        return task, optimizer

    expected_task, expected = trained(3)
    task, optimizer = trained(2)
    other, fresh = trained(0)
    other.load_state_dict(task.state_dict())
    load_optimizer_state(fresh, other, optimizer_state(optimizer, task), "test")
    for parameter in other.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    fresh.step()
    for ours, theirs in zip(other.parameters(), expected_task.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for name, value in optimizer_state(expected, expected_task).items():
        assert torch.equal(value, optimizer_state(fresh, other)[name]), name


def test_state_of_another_model_is_refused() -> None:
    task, other = toy_task(), toy_task(dim=4)
    optimizer = build_optimizer(task, toy_config(Path("run")).optim)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = optimizer_state(optimizer, task) | {"exp_avg/strange": torch.zeros(2)}
    with pytest.raises(
        UserError, match=r"step-1 is not of this model: .*embedding.weight has shape \(8, 4\), not \(4, 4\)"
    ):
        load_optimizer_state(build_optimizer(other, toy_config(Path("run")).optim), other, state, "step-1")


def test_gradients_are_scaled_where_they_are() -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    weights[0].grad = torch.tensor([2.0, 4.0])
    scale_gradients(weights, torch.tensor(0.5, dtype=torch.float64))
    assert weights[0].grad.tolist() == [1.0, 2.0]
    assert weights[1].grad is None
    scale_gradients([], torch.tensor(0.5))


def config_of(**optim: Any) -> OptimConfig:
    return toy_config(Path("run"), optim=optim).optim


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_goes_on_exactly_from_its_saved_state(kind: str) -> None:
    if kind in TIMM_OPTIMIZERS:
        pytest.importorskip("timm")
    config = config_of(type=kind)
    torch.manual_seed(0)
    task, resumed = toy_task(), toy_task()
    gradients = [[torch.randn_like(parameter) for parameter in task.parameters()] for _ in range(6)]

    def steps(task: ToyTask, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for number in range(first, last):
            set_learning_rate(optimizer, 0.01)
            for parameter, gradient in zip(task.parameters(), gradients[number], strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    optimizer = build_optimizer(task, config)
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    steps(task, optimizer, 0, 3)
    assert all(not torch.equal(value, before[name]) for name, value in task.named_parameters())
    state = {name: value.clone() for name, value in optimizer_state(optimizer, task).items()}
    resumed.load_state_dict(task.state_dict())
    again = build_optimizer(resumed, config)
    load_optimizer_state(again, resumed, safetensors.torch.load(safetensors.torch.save(state)), "step-3")
    steps(task, optimizer, 3, 6)
    steps(resumed, again, 3, 6)
    for name, value in task.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name)), name


def test_muon_is_for_the_matrices_of_levels() -> None:
    task = toy_task()
    optimizer = build_optimizer(task, config_of(type="muon"))
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    muon, adamw = (
        {names[id(parameter)] for group in part.param_groups for parameter in group["params"]}
        for part in optimizer.optimizers  # type: ignore[attr-defined]
    )
    # The toy's head counts to a level, its embedding to none.
    assert muon == {"encoder.numbers.weight", "head.weight"}
    assert adamw == {"encoder.embedding.weight", "encoder.embedding.bias", "encoder.norm.weight", "encoder.norm.bias",
                     "encoder.numbers.bias", "head.bias"}  # fmt: skip
    set_learning_rate(optimizer, 0.5)
    rates = {group["lr"] for part in optimizer.optimizers for group in part.param_groups}  # type: ignore[attr-defined]
    assert rates == {0.5, 0.25}


def test_rates_fall_by_block_from_the_head_to_the_embedding() -> None:
    config = load_config("vision/digits")
    task = build_task(config, build_tokenizers(config), ("a", "b"))
    rates = layer_decays(task, 0.5)
    # One block of pixels, one of strokes, two of the digit.
    assert rates["head.weight"] == rates["encoder.hierarchy.down.0.query.weight"] == 1
    stage = "encoder.hierarchy.stages"
    assert rates[f"{stage}.2.encoder.1.mlp.up.weight"] == 0.5
    assert rates[f"{stage}.2.encoder.0.mlp.up.weight"] == rates["encoder.hierarchy.transitions.1.merge.weight"] / 0.5
    assert rates[f"{stage}.2.encoder.0.mlp.up.weight"] == 0.5**2
    assert rates[f"{stage}.1.encoder.0.mlp.up.weight"] == 0.5**3
    assert rates[f"{stage}.0.encoder.0.mlp.up.weight"] == 0.5**4
    assert rates["encoder.embedding.project.weight"] == 0.5**5
    groups = param_groups(task, config_of(layer_decay=0.5))
    assert {group["lr_scale"] for group in groups} == {0.5**power for power in range(6)}
    with pytest.raises(ConfigError, match=r"optim.layer_decay needs a model with levels of blocks"):
        param_groups(toy_task(), config_of(layer_decay=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "adam"}, "'adam' is no known optimizer; it is one of adamw, muon, sgd, adabelief"),
        ({"momentum": 0.5}, "momentum has no effect with type: adamw"),
        ({"type": "sgd", "betas": (0.9, 0.9)}, "betas has no effect with type: sgd"),
        ({"type": "lion", "eps": 1e-3}, "eps has no effect with type: lion"),
    ],
)
def test_settings_that_an_optimizer_does_not_read_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimConfig(**options)
