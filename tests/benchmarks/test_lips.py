"""Words from silent mouths: what is compared, and what is made of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch

from benchmarks import lips
from benchmarks.checks import CheckFailed
from benchmarks.results import Result
from benchmarks.runs import Finished, _parameters, for_minutes, written
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import FixedGroups
from hrt_mm.tasks.ctc.task import CTCConfig
from hrt_mm.train.build import build_data, build_task, build_tokenizers
from hrt_mm.train.check import check
from hrt_mm.train.sampler import Plan, Position
from tests.modalities.video.films import WORDS, grid


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    grid(tmp_path / "grid_s1", {"train": 5, "val": 1, "test": 1})
    return tmp_path


def options(*words: str) -> argparse.Namespace:
    result = lips.arguments().parse_args([*words])
    result.device, result.command = torch.device("cpu"), "python -m benchmarks.lips"
    return result


def finished(accuracy: float, parameters: int = 1000) -> Finished:
    metrics = {"test/accuracy": accuracy, "test/word_error_rate": 1 - accuracy}
    facts = {"parameters": parameters, "steps": 9, "samples": 18, "seconds": 60.0}
    return Finished(facts | {"metrics": metrics}, [])


@pytest.mark.parametrize("task", list(lips.CONFIGS))
@pytest.mark.parametrize("name", lips.CONTENDERS[1:])
def test_controls_learn_and_have_the_parameters_of_the_hierarchy(data: Path, task: str, name: str) -> None:
    configs = lips.contenders(task)
    config = configs[name]
    check(config)
    assert _parameters(config) == pytest.approx(_parameters(configs["hierarchy"]), rel=lips.TOLERANCE)
    depth = sum(level.depth for level in configs["hierarchy"].single.model.levels)
    levels = config.single.model.levels
    above = [0] if task == "ctc" else []
    assert [level.depth for level in levels] == ([depth, *above] if name == "flat" else [0, depth, *above])
    assert all(level.window is None for level in levels if level.depth == depth)
    result = build_data(config, ["train"])
    loaded = result.maker(config, "train")[Plan(Position(), (0, 1), Position())]
    assert loaded.batch is not None and not loaded.bad
    task_of_it = build_task(config, result.tokenizers, result.classes)
    task_of_it(loaded.batch).loss.backward()
    assert all(parameter.grad is not None for parameter in task_of_it.parameters())


@pytest.mark.parametrize("name", lips.CONTENDERS)
def test_ctc_starts_from_all_that_the_slots_taught(data: Path, name: str) -> None:
    encoders = []
    for task in lips.CONFIGS:
        config = lips.contenders(task)[name]
        built = build_task(config, build_tokenizers(config), config.task.stand_ins).state_dict()
        encoders.append({key: value.shape for key, value in built.items() if key.startswith("encoder.")})
    slots, ctc = encoders
    assert slots == {key: shape for key, shape in ctc.items() if key in slots}
    fresh = {key.split(".")[2] for key in ctc.keys() - slots.keys()}
    assert fresh == (set() if name == "hierarchy" else {"transitions"})


def test_the_steps_of_ctc_are_as_long_for_all(data: Path) -> None:
    strides = []
    for config in lips.contenders("ctc").values():
        levels = config.single.model.levels
        assert isinstance(config.task, CTCConfig) and config.task.level == levels[-1].name
        groups = [level.group.stride for level in levels[:-1] if isinstance(level.group, FixedGroups)]
        assert len(groups) == len(levels) - 1
        strides.append([*map(prod, zip(*(group for group in groups if isinstance(group, tuple)), strict=True))])
    assert strides == 3 * [[4, 3, 6]]


def test_guessing_knows_the_words_of_each_slot(data: Path) -> None:
    # Of five sentences each slot has as many different words as it can.
    assert lips.chance() == pytest.approx(sum(1 / len(slot) for slot in WORDS) / len(WORDS))


def measured(
    monkeypatch: pytest.MonkeyPatch, flat_parameters: int = 1000, words: Sequence[str] = ()
) -> tuple[Result, dict[str, list[str]]]:
    asked: dict[str, list[str]] = {}

    def trained(config: Path, folder: Path, overrides: list[str]) -> Finished:
        asked[folder.name] = overrides
        check(load_config(config, overrides))
        known = {"hierarchy": 0.92, "flat": 0.5, "frame-CNN": 0.95}
        name = folder.name.partition("-")[2]
        return finished(known[name], flat_parameters if name == "flat" else 1000)

    monkeypatch.setattr(lips, "trained", trained)
    return lips.run(options("--minutes", "3", *words)), asked


def test_controls_can_be_left_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = measured(monkeypatch, words=["--tasks", "ctc", "--controls", "frame-CNN"])
    assert {name.partition("-")[2] for name in asked} == {"hierarchy", "frame-CNN"}
    assert [list(row.contenders) for row in result.rows] == [["hierarchy", "frame-CNN"]]
    assert result.settings["minutes"] == {"slots": 3.0, "ctc": 30.0}
    assert "flat" not in lips.tables(result)


def test_all_are_trained_for_the_same_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = measured(monkeypatch)
    assert list(asked) == [f"{task}-{name}" for task in lips.CONFIGS for name in lips.CONTENDERS]
    assert all({"train.clock=cpu", "train.workers=0"} <= set(words) for words in asked.values())
    minutes = {"slots": "train.time_limit=3.0", "ctc": "train.time_limit=30.0"}
    assert all(minutes[name.partition("-")[0]] in words for name, words in asked.items())
    # CTC goes on from what the same contender learned of the slots.
    for name in lips.CONTENDERS:
        (start,) = (word for word in asked[f"ctc-{name}"] if word.startswith("train.init_from="))
        assert start.endswith(f"/slots-{name}")
        assert not any(word.startswith("train.init_from=") for word in asked[f"slots-{name}"])
    slots, ctc = result.rows
    assert slots.ratios["accuracy, hierarchy less flat"] == pytest.approx(0.42)
    assert ctc.ratios["word_error_rate, hierarchy less frame-CNN"] == pytest.approx(0.03)
    assert [bar.met for bar in result.bars] == [True]
    text = lips.tables(result)
    assert "| flat | 1,000 | 9 | 60 | 50.0% |" in text and "| guessing |" in text and "word error rate" in text


def test_contenders_of_other_sizes_are_not_compared(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckFailed, match=r"slots, parameters of flat differ by 10.0%"):
        measured(monkeypatch, 1100)


def test_finished_runs_are_taken_and_others_are_not(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options("--minutes", "3")
    config = lips.contenders("slots")["flat"]
    file = written(config, data / "slots-flat.yaml")
    run = data / "slots-flat"
    run.mkdir()
    words = [*for_minutes(3.0, given.device), "train.seed=0", "train.workers=0", f"run.dir={run}"]
    written(load_config(file, words), run / "config.yaml")
    (run / "summary.json").write_text('{"parameters": 5}')
    (run / "metrics.jsonl").write_text("")
    assert lips.train("slots", "flat", config, data, given).summary == {"parameters": 5}
    given.minutes = 4.0
    with pytest.raises(UserError, match="holds a run of another configuration"):
        lips.train("slots", "flat", config, data, given)


def test_the_data_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        lips.run(options())
