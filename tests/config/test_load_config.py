"""Every mistake a configuration can have, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.config import load_config, packaged_configs
from hrt_mm.config.layers import find_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import FixedGroups
from hrt_mm.tasks import TASKS
from hrt_mm.train.check import check
from hrt_mm.train.resolved import resolved_yaml

GOOD = """\
modality: {type: vision, channels: 1, patch: 2}
model:
  levels:
    - {name: patches, dim: 32, heads: 2, depth: 1, window: 4, group: {type: fixed, stride: 2}, pool: conv}
    - {name: image, dim: 64, heads: 2, depth: 1}
task: {type: classification, level: image}
data: {type: digits}
optim: {lr: 1e-3}
train: {steps: 20, batch_size: 8}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def mistakes(folder: Path, old: str, new: str, *overrides: str) -> list[str]:
    """What is said about the good configuration with one text replaced."""
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, GOOD.replace(old, new)), overrides)
    lines = str(caught.value).replace(f"{folder}/", "").split("\n  ")
    return lines if len(lines) == 1 else lines[1:]


def test_a_good_one_loads(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["model.levels.image.dim=96", "run.dir=runs/x"])
    assert config.single.modality.type == "vision"
    assert config.task.type == "classification"
    assert config.data.type == "digits"
    assert config.single.model.levels[0].group == FixedGroups(stride=2)
    assert config.single.model.levels[1].dim == 96
    assert config.optim.lr == 1e-3
    assert config.run.dir == Path("runs/x")
    check(config)


CASES = {
    "key-misspelled": (
        "depth: 1, window",
        "dpeth: 1, window",
        "4: model.levels.0.dpeth: unknown key; did you mean 'depth'?",
    ),
    "key-in-root": (
        "optim: {lr: 1e-3}",
        "lr: 1e-3",
        "8: lr: unknown key; did you mean 'optim.lr'",
    ),
    "key-elsewhere": (
        "lr: 1e-3",
        "seed: 3",
        "8: optim.seed: unknown key; did you mean 'train.seed'?",
    ),
    "key-of-another-type": (
        "stride: 2",
        "stride: 2, target: 4",
        "4: model.levels.0.group.target: unknown key; did you mean 'model.levels.0.group.target' "
        "with type: learned? (keys here: type, stride)",
    ),
    "key-like-nothing": (
        "lr: 1e-3",
        "zzz: 3",
        "8: optim.zzz: unknown key (keys here: type, lr, weight_decay,",
    ),
    "section-misspelled": (
        "optim:",
        "optm:",
        "8: optm: unknown key; did you mean 'optim'?",
    ),
    "key-of-a-modality": (
        "channels: 1",
        "chanels: 1",
        "1: modality.chanels: unknown key; did you mean 'channels'?",
    ),
    "text-for-number": (
        "lr: 1e-3",
        "lr: fast",
        "8: optim.lr: got 'fast'; expected a number above 0",
    ),
    "quoted-number": (
        "lr: 1e-3",
        "lr: '1e-3'",
        "8: optim.lr: got '1e-3'; expected a number above 0",
    ),
    "out-of-range": (
        "lr: 1e-3",
        "lr: -1",
        "8: optim.lr: got -1; expected a number above 0",
    ),
    "nan": (
        "lr: 1e-3",
        "lr: .nan",
        "8: optim.lr: got NaN; expected a number above 0",
    ),
    "fraction-for-whole": (
        "steps: 20",
        "steps: 20.5",
        "9: train.steps: got 20.5; expected a whole number of 1 or more",
    ),
    "true-for-number": (
        "depth: 1, window",
        "depth: true, window",
        "4: model.levels.0.depth: got true; expected a whole number of 0 or more",
    ),
    "union": (
        "window: 4",
        "window: wide",
        "4: model.levels.0.window: got 'wide'; expected a whole number of 1 or more, or a list of 1 or "
        "more, each a whole number of 1 or more, or null",
    ),
    "stride-0": (
        "stride: 2",
        "stride: 0",
        "4: model.levels.0.group.stride: got 0; expected a whole number of 1 or more",
    ),
    "choice-misspelled": (
        "pool: conv",
        "pool: con",
        "4: model.levels.0.pool: got 'con'; did you mean 'conv'? expected one of attention, conv, haar",
    ),
    "literal-misspelled": (
        "window: 4",
        "window: 4, window_type: blok",
        "4: model.levels.0.window_type: got 'blok'; did you mean 'block'? expected one of block, shifted, sliding",
    ),
    "group-misspelled": (
        "type: fixed",
        "type: fixd",
        "4: model.levels.0.group.type: got 'fixd'; did you mean 'fixed'? expected one of fixed, given, learned",
    ),
    "group-without-type": (
        "type: fixed, ",
        "",
        "4: model.levels.0.group.type: the key is missing; expected one of fixed, given, learned",
    ),
    "number-for-map": (
        "{type: fixed, stride: 2}",
        "4",
        "4: model.levels.0.group: got 4; expected a map, or null",
    ),
    "key-missing": (
        "dim: 32, ",
        "",
        "4: model.levels.0.dim: the key is missing; expected a whole number of 1 or more",
    ),
    "train-key-missing": (
        "steps: 20, ",
        "",
        "9: train.steps: the key is missing; expected",
    ),
    "section-missing": (
        "task: {type: classification, level: image}\n",
        "",
        "1: task: the section is missing; expected",
    ),
    "section-empty": (
        "train: {steps: 20, batch_size: 8}",
        "train:",
        "9: train: got null; expected a map",
    ),
    "section-a-word": (
        "{type: classification, level: image}",
        "classification",
        f"6: task: got 'classification'; expected a map with a type (one of {', '.join(TASKS)}); "
        "write {type: classification}",
    ),
    "task-misspelled": (
        "type: classification",
        "type: clasification",
        f"6: task.type: unknown task type 'clasification'; did you mean 'classification'? (one of {', '.join(TASKS)})",
    ),
    "modality-misspelled": (
        "type: vision",
        "type: vison",
        "1: modality.type: unknown modality type 'vison'; did you mean 'vision'?",
    ),
    "modality-untyped": (
        "type: vision, ",
        "",
        "1: modality.type: the key is missing; expected one of ",
    ),
    "data-misspelled": (
        "type: digits",
        "type: digit",
        "7: data.type: unknown data type 'digit'; did you mean 'digits'?",
    ),
    "impossible-level": (
        "dim: 32",
        "dim: 33",
        "4: model.levels.0: dim 33 of level 'patches' is not divisible by",
    ),
    "impossible-model": (
        ", group: {type: fixed, stride: 2}",
        "",
        "2: model: level 'patches' is not the last and needs a group",
    ),
    "key-twice": (
        "stride: 2}",
        "stride: 2, stride: 4}",
        "4: model.levels.0.group.stride: the key is given twice",
    ),
    "variable-not-set": (
        "type: digits",
        "type: mnist, root: ${HRT_MM_NOWHERE}",
        "7: data.root: the environment variable HRT_MM_NOWHERE is not set",
    ),
}
"""What is wrong: text of the good configuration, what stands in its place, and how the message begins."""


@pytest.mark.parametrize("case", CASES)
def test_one_mistake(tmp_path: Path, case: str) -> None:
    old, new, expected = CASES[case]
    told = mistakes(tmp_path, old, new)
    assert len(told) == 1, told
    assert told[0].startswith(f"run.yaml:{expected}")


def test_a_required_key_misspelled_is_one_mistake(tmp_path: Path) -> None:
    told = mistakes(tmp_path, "heads: 2, depth: 1, window", "haeds: 2, depth: 1, window")
    assert len(told) == 1
    assert "model.levels.0.haeds: unknown key; did you mean 'heads'?" in told[0]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        "task: {type: classification, level: image}\ndata: {type: digits}\noptim: {lr: 1e-3}",
        "task: {type: clasification}\ndata: {type: digit}\noptim: {lr: fast, epps: 1}",
        "train.stesp=3",
        "modality.patch=0",
    )
    assert [line.split(": ")[0] for line in told] == [
        "run.yaml:6",
        "run.yaml:7",
        "run.yaml:8",
        "run.yaml:8",
        "override 'modality.patch=0'",
        "override 'train.stesp=3'",
    ]


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD.replace("lr: 1e-3", "lrr: 1e-3"))
    with pytest.raises(ConfigError, match=r"base.yaml:8: optim.lrr: unknown key; did you mean 'lr'\?"):
        load_config(write(tmp_path, "extends: base.yaml\noptim: {eps: 1e-6}\n"))


def test_extends_is_no_override(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="override 'extends=x': extends: unknown key"):
        load_config(write(tmp_path, GOOD), ["extends=x"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.level=words", "unknown level 'words'; one of patches, image"),
        ("model.levels.0.window=3", "windows and strides must nest"),
        ("task.level=patches", "lies above all that the task reads"),
        (
            "model.levels.patches={window: null, group: {type: given, boundary: words}}",
            "model.levels.patches.group.boundary: the modality vision gives no boundary 'words'",
        ),
    ],
)
def test_impossible_models_are_found_without_building_them(tmp_path: Path, override: str, message: str) -> None:
    config = load_config(write(tmp_path, GOOD), [override])
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_the_resolved_configuration_has_the_defaults_and_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["optim.lr=1e-5", "run.dir='a $${b} 1e-3'"])
    text = resolved_yaml(config)
    assert "weight_decay:" in text
    assert load_config(write(tmp_path, text)) == config
    assert config.run.dir == Path("a ${b} 1e-3")


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_configurations_are_right_and_round_trip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    config = load_config(name)
    check(config)
    assert load_config(write(tmp_path, resolved_yaml(config))) == config
    assert find_config(name).read_text().startswith("#"), "a configuration begins with a comment that says what it is"


def test_groups_by_uncertainty_need_a_task_that_predicts_tokens() -> None:
    group = "model.levels.bytes.group={type: learned, signal: uncertainty, target: 6, max: 24}"
    check(load_config("text/quickstart", [group]))
    with pytest.raises(ConfigError, match=r"model.levels.bytes.group.signal: .* task classification does not train"):
        check(load_config("text/quickstart", [group, "task={type: classification}"]))
