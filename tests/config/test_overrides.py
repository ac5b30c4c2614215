from __future__ import annotations

from typing import Any

import pytest

from hrt_mm.config.messages import Problem
from hrt_mm.config.overrides import apply
from hrt_mm.config.yaml_reader import read

BASE = """
model:
  levels:
    - {name: patches, dim: 32, group: {type: fixed, stride: 4}}
    - {name: image, dim: 64}
task: {type: classification, level: image}
optim: {lr: 1.0}
"""


def override(*texts: str) -> tuple[Any, list[str]]:
    problems: list[Problem] = []
    root = apply(read(BASE, "a.yaml", problems), texts, problems)
    return root.data(), [str(problem) for problem in problems]


def changed(*texts: str) -> Any:
    data, problems = override(*texts)
    assert not problems
    return data


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("true", True), ("", None), ("a=b", "a=b")],
)
def test_values_are_yaml(text: str, value: object) -> None:
    assert changed(f"run.x={text}")["run"]["x"] == value


def test_scalars_and_new_sections() -> None:
    data = changed("optim.lr=2", "optim.eps=3", "train.schedule.kind=x")
    assert data["optim"] == {"lr": 2, "eps": 3}
    assert data["train"] == {"schedule": {"kind": "x"}}


@pytest.mark.parametrize("key", ["0", "patches", "-2"])
def test_list_items_by_position_and_by_name(key: str) -> None:
    levels = changed(f"model.levels.{key}.dim=48")["model"]["levels"]
    assert [level["dim"] for level in levels] == [48, 64]
    assert levels[0]["group"] == {"type": "fixed", "stride": 4}


def test_the_last_of_two_counts() -> None:
    assert changed("optim.lr=2", "optim.lr=3")["optim"]["lr"] == 3


def test_lists_are_replaced() -> None:
    assert changed("model.levels=[{name: all}]")["model"]["levels"] == [{"name": "all"}]


@pytest.mark.parametrize("texts", [("task.type=masked", "task.ratio=0.5"), ("task.ratio=0.5", "task.type=masked")])
def test_a_new_type_drops_the_keys_of_the_old_one_in_any_order(texts: tuple[str, ...]) -> None:
    assert changed(*texts)["task"] == {"type": "masked", "ratio": 0.5}


def test_the_same_type_keeps_the_keys() -> None:
    assert changed("task.type=classification")["task"]["level"] == "image"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr", "not of the form a.b.c=value"),
        ("=3", "not of the form a.b.c=value"),
        ("optim..lr=3", "not of the form a.b.c=value"),
        ("model.levels.2.dim=1", "there is no item 2; the list has 2"),
        ("model.levels.-3.dim=1", "there is no item -3"),
        ("model.levels.patchs.dim=1", "unknown name 'patchs'; did you mean 'patches'? (one of patches, image)"),
        ("optim.lr.x=1", "optim.lr: is 1.0 and has no key 'x'"),
        ("optim={lr: 1, lr: 2}", "the key is given twice"),
    ],
)
def test_impossible_overrides_say_why(text: str, message: str) -> None:
    data, problems = override(text, "optim.eps=7")
    assert data["optim"]["eps"] == 7
    assert len(problems) == 1
    assert problems[0].startswith(f"override {text!r}: ")
    assert message in problems[0]
