"""Callbacks: when they are called, what they see, and how a configuration names them; the profiler among them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.train import Callback, CallbackRun, train
from hrt_mm.train import callbacks as module
from hrt_mm.train.profiling import Profiler
from tests.train.toy_training import toy_config


class Trace(Callback):
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.metrics: dict[str, Mapping[str, float]] = {}

    def on_start(self, run: CallbackRun) -> None:
        self.events.append(("start", run.state.step))

    def on_step(self, run: CallbackRun) -> None:
        self.events.append(("step", run.state.step))

    def on_evaluation(self, run: CallbackRun, metrics: Mapping[str, float]) -> None:
        self.events.append(("evaluation", run.state.step))
        self.metrics["val"] = dict(metrics)

    def on_save(self, run: CallbackRun) -> None:
        assert (run.folder / "checkpoints" / f"step-{run.state.step:08d}").is_dir() or list(
            (run.folder / "checkpoints").glob(f"step-*{run.state.step}")
        )
        self.events.append(("save", run.state.step))

    def on_end(self, run: CallbackRun, metrics: Mapping[str, float]) -> None:
        self.events.append(("end", run.state.step))
        self.metrics["end"] = dict(metrics)


def test_callbacks_are_called_in_the_order_of_training(tmp_path: Path) -> None:
    trace = Trace()
    train(toy_config(tmp_path / "run", steps=4, eval_every=2, save_every=4), callbacks=[trace])
    steps = [event for event in trace.events if event[0] in ("start", "step", "end")]
    assert steps == [("start", 0), ("step", 1), ("step", 2), ("step", 3), ("step", 4), ("end", 4)]
    assert [event for event in trace.events if event[0] == "evaluation"] == [("evaluation", 2), ("evaluation", 4)]
    assert ("save", 4) in trace.events
    summary = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]
    assert trace.metrics["end"] == summary and trace.metrics["val"].keys() <= summary.keys()


def test_callbacks_change_no_number(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "plain"))
    train(toy_config(tmp_path / "called"), callbacks=[Trace()])

    def losses(name: str) -> list[float]:
        return [
            json.loads(line).get("train/loss")
            for line in (tmp_path / name / "metrics.jsonl").read_text().split("\n")[:-1]
        ]

    assert losses("plain") == losses("called")


def test_an_exception_ends_the_run(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_step(self, run: CallbackRun) -> None:
            raise RuntimeError("my own check")

    with pytest.raises(RuntimeError, match="my own check"):
        train(toy_config(tmp_path / "run"), callbacks=[Failing()])
    assert not (tmp_path / "run/summary.json").exists()


def test_registered_callbacks_are_named_in_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Trace] = []

    def make() -> Trace:
        made.append(Trace())
        return made[-1]

    holder = ModuleType("my_callbacks")
    holder.__dict__.update(make=make, number=int)
    monkeypatch.setitem(sys.modules, "my_callbacks", holder)
    entries = [EntryPoint(name, f"my_callbacks:{name}", module.GROUP) for name in ("make", "number")]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    train(toy_config(tmp_path / "run", callbacks=("make",), steps=2))
    assert ("end", 2) in made[-1].events
    with pytest.raises(ConfigError, match=r"no callback 'maker'; one of make, number; did you mean make\?"):
        train(toy_config(tmp_path / "other", callbacks=("maker",)))
    with pytest.raises(ConfigError, match="number is 0, not a Callback"):
        train(toy_config(tmp_path / "other", callbacks=("number",)))


def test_without_registered_callbacks_none_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no installed package registers any"):
        train(toy_config(tmp_path / "run", callbacks=("early_stopping",)))


def test_a_profile_shows_the_parts_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [
        "train.steps=6",
        "train.batch_size=4",
        "train.eval_every=null",
        "train.test=false",
        "train.tensorboard=false",
    ]
    train(load_config("vision/digits", [*short, f"run.dir={tmp_path / 'run'}"]), callbacks=[Profiler(2)])
    folder = tmp_path / "run/profile"
    parts = (folder / "parts.txt").read_text()
    assert parts in capsys.readouterr().out
    for name in ("encoder.embedding", "encoder.hierarchy.stages.0", "encoder.hierarchy.transitions.0"):
        assert f"  {name}\n" in parts
    trace = json.loads((folder / "trace.json").read_text())
    ranges = [event for event in trace["traceEvents"] if str(event.get("name", "")).endswith("hierarchy.stages.0")]
    # One forward pass in each of the profiled steps.
    assert len(ranges) == 2
    assert "aten::" in (folder / "operators.txt").read_text()


def test_a_run_shorter_than_the_profile_ends_well(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", steps=2, eval_every=None, test=False), callbacks=[Profiler(5)])
    assert (tmp_path / "run/summary.json").is_file()


def test_the_command_refuses_a_profile_of_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vision/digits", "--profile", "0", f"run.dir={tmp_path / 'run'}"]) == 2
    assert "--profile 0: give 1 step or more" in capsys.readouterr().err
