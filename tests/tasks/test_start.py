"""A model that was built without memory and loaded has the numbers of one that was built as usual."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from hrt_mm.config import load_config
from hrt_mm.core.rope import Rotary
from hrt_mm.tasks import Task
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_mm.train.meters import Meters
from tests.tasks.every import CASES, Case
from tests.tasks.test_batches import _thirds

FUSIONS = ["concat", "gated", "cross_attention", "bottleneck", "joint"]
MORE = {
    f"fused by {name}": Case({**CASES["fused"].options, "fusion": {"type": name, "dim": 16}}, CASES["fused"].label,
                             CASES["fused"].value)
    for name in FUSIONS
} | {
    "sigmoid loss": Case({"type": "contrastive", "loss": {"type": "sigmoid"}}, value=CASES["contrastive"].value),
}  # fmt: skip
EVERY = CASES | MORE
CONFIGS = Path(__file__).parents[2] / "configs"
PACKAGED = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def emptied(case: Case) -> Task:
    with torch.device("meta"):
        task = case.build(awake=False)
    task = task.to_empty(device="cpu")
    for tensor in (*task.parameters(), *task.buffers()):
        if tensor.is_floating_point():
            nn.init.constant_(tensor, torch.nan)
        else:
            tensor.fill_(-77)
    return task


def metrics(case: Case, task: Task) -> dict[str, tuple[float, float]]:
    torch.manual_seed(0)
    if case.options["type"] == "masked":
        task.hidden = _thirds  # type: ignore[assignment]
    meters, batch = Meters(), case.batch(range(8))
    with torch.no_grad():
        meters.add(task.eval()(batch), batch)
    return meters.sums()


@pytest.mark.parametrize("name", EVERY)
def test_loaded_without_a_start(name: str) -> None:
    case = EVERY[name]
    usual, empty = case.build(), emptied(case)
    empty.load_state_dict(usual.state_dict())
    assert metrics(case, empty) == metrics(case, usual)


@pytest.mark.parametrize("name", EVERY)
def test_every_module_starts_again(name: str) -> None:
    """In any order of the modules: what a module holds itself is its own to start."""
    case = EVERY[name]
    for backwards in (False, True):
        empty = emptied(case)
        modules = [*empty.modules()]
        for module in reversed(modules) if backwards else modules:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if own:
                module.reset_parameters()  # type: ignore[operator]
        usual = case.build(awake=False)
        for key, value in usual.state_dict().items():
            result = empty.state_dict()[key]
            assert result.isfinite().all(), key
            if value.numel() and bool((value == value.flatten()[0]).all()):
                assert torch.equal(result, value), key
            elif value.numel() > 30:
                assert float(result.std()) == pytest.approx(float(value.std()), rel=0.5), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_casting_a_model_leaves_positions_exact(dtype: torch.dtype) -> None:
    task = CASES["tagging"].build()
    cast = copy.deepcopy(task).to(dtype)
    like = torch.zeros(1)
    pairs = list(zip(task.modules(), cast.modules(), strict=True))
    rotaries = [(one.rotary, other.rotary) for one, other in pairs if hasattr(one, "rotary")]
    assert rotaries
    for one, other in rotaries:
        assert isinstance(one, Rotary) and isinstance(other, Rotary)
        assert all(map(torch.equal, one.tables(like), other.tables(like)))


@pytest.mark.parametrize("name", PACKAGED)
def test_every_module_of_a_packaged_model_can_start_and_is_saved_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRT_MM_DATA", "/nowhere")
    config = load_config(name)
    with torch.device("meta"):
        task = build_task(config, build_tokenizers(config), config.task.stand_ins)
    for key, module in task.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        assert not own or callable(getattr(module, "reset_parameters", None)), key
    assert {key for key, _ in task.named_buffers()} <= task.state_dict().keys(), "a buffer that loading leaves empty"
