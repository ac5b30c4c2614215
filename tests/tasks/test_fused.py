from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Fused, FusedConfig

Make = Callable[..., HierarchyConfig]
CLASSES = ("even", "odd")
FUSIONS: list[dict[str, Any]] = [
    {"type": "concat", "dim": 16},
    {"type": "gated", "dim": 16},
    {"type": "cross_attention", "dim": 16, "heads": 2, "depth": 1},
    {"type": "bottleneck", "dim": 16, "heads": 2, "depth": 1},
    {"type": "joint", "dim": 16, "heads": 2, "depth": 1},
]


def config(**options: Any) -> FusedConfig:
    return FusedConfig.model_validate({"type": "fused_classification", **options})


@pytest.fixture
def towers(rows: Tokenizer, ids: Tokenizer) -> dict[str, Tokenizer]:
    return {"rows": rows, "ids": ids}


@pytest.fixture
def build(towers: Mapping[str, Tokenizer], hierarchy: Make) -> Callable[..., Fused]:
    def make(**options: Any) -> Fused:
        torch.manual_seed(0)
        return config(**options).build_towers({"rows": hierarchy(2), "ids": hierarchy(2)}, towers, CLASSES)

    return make


def samples(count: int, seed: int, *, noise: float = 0.3) -> list[Sample]:
    """The sign of the rows, once more if the id says so: neither tells the class alone."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for index in range(count):
        one, two = (int(torch.randint(2, (1,), generator=generator)) for _ in range(2))
        rows = (2 * one - 1) + noise * torch.randn(3 + index % 3, 4, generator=generator)
        result.append(Sample({"rows": rows, "ids": torch.tensor([two, 5])}, CLASSES[one ^ two], f"s{index}"))
    return result


def trained(task: Fused, towers: Mapping[str, Tokenizer], given: FusedConfig, steps: int) -> None:
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
    task.train()
    for step in range(steps):
        optimizer.zero_grad()
        task(given.collator({}, towers, CLASSES)(samples(48, step))).loss.backward()
        optimizer.step()
    task.eval()


def accuracy(task: Fused, towers: Mapping[str, Tokenizer], given: FusedConfig, found: list[Sample]) -> float:
    with torch.no_grad():
        right, count = task(given.collator({}, towers, CLASSES)(found)).stats["accuracy"]
    return float(right / count)


def test_it_is_registered() -> None:
    assert TASKS["fused_classification"] is FusedConfig


@pytest.mark.parametrize("fusion", FUSIONS, ids=[str(fusion["type"]) for fusion in FUSIONS])
def test_both_modalities_together_tell_what_neither_does(
    build: Callable[..., Fused], towers: Mapping[str, Tokenizer], fusion: dict[str, Any]
) -> None:
    given = config(fusion=fusion, drop_modality=0.0)
    task = build(fusion=fusion, drop_modality=0.0)
    trained(task, towers, given, 70)
    held = samples(200, 10_001)
    alone = [Sample({"rows": sample.value["rows"]}, sample.label, sample.name) for sample in held]
    assert accuracy(task, towers, given, held) > 0.9
    assert accuracy(task, towers, given, alone) < 0.65, "one modality alone tells nothing here"


def test_a_modality_that_is_left_out_in_training_is_no_loss_in_testing(
    build: Callable[..., Fused], towers: Mapping[str, Tokenizer]
) -> None:
    """Both modalities tell the class: with dropping, each does alone."""

    def twins(count: int, seed: int) -> list[Sample]:
        result = samples(count, seed)
        for sample in result:
            label = CLASSES.index(sample.label)
            sample.value["ids"] = torch.tensor([label, 5])
            sample.value["rows"] = sample.value["rows"] * 0 + 2.0 * label - 1
        return result

    given = config(drop_modality=0.4)
    task = build(drop_modality=0.4)
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
    for step in range(40):
        optimizer.zero_grad()
        task(given.collator({}, towers, CLASSES)(twins(32, step))).loss.backward()
        optimizer.step()
    task.eval()
    for tower in ("rows", "ids"):
        alone = [Sample({tower: sample.value[tower]}, sample.label, sample.name) for sample in twins(100, 999)]
        assert accuracy(task, towers, given, alone) > 0.95, tower


@pytest.mark.parametrize("fusion", FUSIONS, ids=[str(fusion["type"]) for fusion in FUSIONS])
def test_each_modality_alone_has_the_loss_that_it_has_without_the_others(
    build: Callable[..., Fused], towers: Mapping[str, Tokenizer], fusion: dict[str, Any]
) -> None:
    """Over the samples that have it, in training; evaluation and what all together come to stay as they are."""
    options = {"fusion": fusion, "drop_modality": 0.0}
    plain, task = build(**options), build(**options, alone=0.5)
    result = samples(12, 0)
    for index in (2, 7):
        result[index].value["ids"] = None
    batch = config().collator({}, towers, CLASSES)(result)
    output = task.train()(batch)
    assert torch.allclose(output.parts["cross_entropy"], plain.train()(batch).parts["cross_entropy"])
    for tower in ("rows", "ids"):
        own = [Sample({tower: one.value[tower]}, one.label) for one in result if one.value[tower] is not None]
        expected = plain(config().collator({}, towers, CLASSES)(own)).parts["cross_entropy"]
        assert torch.allclose(output.parts[f"{tower}/alone"], 0.5 * expected, atol=1e-5)
    assert torch.allclose(output.loss, torch.stack(list(output.parts.values())).sum())
    assert torch.allclose(task.eval()(batch).loss, plain.eval()(batch).loss)
    without = config(without=["ids"]).collator({}, towers, CLASSES)(samples(3, 0))
    missing = build(**options, alone=0.5, without=["ids"]).train()(without)
    assert missing.parts["ids/alone"] == 0 and missing.parts["rows/alone"] > 0


def test_some_modality_of_each_sample_always_stays(
    build: Callable[..., Fused], towers: Mapping[str, Tokenizer]
) -> None:
    task = build(drop_modality=0.9)
    result = samples(64, 0)
    result[0].value["ids"] = None
    batch = config().collator({}, towers, CLASSES)(result)
    torch.manual_seed(0)
    streams, _ = task._streams(batch)
    present = torch.stack([streams[tower].present_B for tower in ("rows", "ids")], 1)
    assert present.any(1).all()
    assert not present.all(1).any() or present.all(1).float().mean() < 0.3
    assert present[0].tolist() == [True, False]
    task.eval()
    streams, _ = task._streams(batch)
    assert streams["ids"].present_B.sum() == 63


def test_a_tower_can_be_left_out_of_an_evaluation(build: Callable[..., Fused], towers: Mapping[str, Tokenizer]) -> None:
    result = samples(8, 0)
    without = build(without=["ids"]).eval()
    whole = build().eval()
    alone = [Sample({"rows": sample.value["rows"]}, sample.label, sample.name) for sample in result]
    expected = whole(config().collator({}, towers, CLASSES)(alone)).loss
    assert torch.equal(without(config().collator({}, towers, CLASSES)(result)).loss, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ["rows", "ids"]}, "task.without names every tower"),
        ({"without": ["sound"]}, "task.without names a tower 'sound'; the towers are rows, ids"),
        ({"level": {"rows": "z"}}, "towers.rows: unknown level 'z'"),
        ({"fusion": {"type": "joint", "time": {"sound": 1.0}}}, "task.fusion.time names a tower 'sound'"),
    ],
)
def test_impossible_tasks_are_refused(build: Callable[..., Fused], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_labels_are_checked(towers: Mapping[str, Tokenizer]) -> None:
    with pytest.raises(BadSample, match="label 'neither' is not one of"):
        config().collator({}, towers, CLASSES)([Sample({"rows": torch.zeros(2, 4)}, "neither", "one")])
