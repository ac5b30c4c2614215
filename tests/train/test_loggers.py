"""Loggers of a run: what they receive, what a resumed run replaces, and that none of them ends a run."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_mm.train import LoggedRun, train
from hrt_mm.train import loggers as module
from tests.train.toy_training import toy_config


class Recorder:
    """Keeps what it receives; raises from a step on."""

    runs: list[Recorder] = []
    fails_from: int | None = None

    def __init__(self, run: LoggedRun) -> None:
        self.run, self.written, self.closed = run, dict[int, dict[str, float]](), False
        type(self).runs.append(self)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self.fails_from is not None and step >= self.fails_from:
            raise ConnectionError("the server is gone")
        self.written.setdefault(step, {}).update(values)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    class Fresh(Recorder):
        runs = []

    holder = ModuleType("recorders")
    holder.__dict__["Fresh"] = Fresh
    monkeypatch.setitem(sys.modules, "recorders", holder)
    entries = [
        EntryPoint("recorder", "recorders:Fresh", module.GROUP),
        EntryPoint("broken", "no_such_module:Logger", module.GROUP),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    return Fresh


def lines(folder: Path) -> dict[int, dict[str, Any]]:
    merged: dict[int, dict[str, Any]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        merged.setdefault(values.pop("step"), {}).update(values)
    return merged


def test_a_registered_logger_receives_what_metrics_jsonl_has(recorder: type[Recorder], tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", loggers=("recorder",)))
    (logger,) = recorder.runs
    assert logger.closed and logger.run.folder == tmp_path / "run" and logger.run.step == 0
    assert logger.run.config["train"]["steps"] == 6
    expected = lines(tmp_path / "run")
    assert logger.written.keys() == expected.keys() == {2, 4, 6}
    tested = {name for name in logger.written[6] if name.startswith("test/")}
    assert "test/loss" in tested
    for step, values in logger.written.items():
        assert {name: value for name, value in values.items() if name not in tested} == {
            name: value for name, value in expected[step].items() if name != "epoch"
        }


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(
    recorder: type[Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.fails_from = 4
    train(toy_config(tmp_path / "run", loggers=("recorder", "csv")))
    assert (tmp_path / "run/summary.json").is_file()
    assert recorder.runs[0].written.keys() == {2}
    warnings = [record.getMessage() for record in caplog.records if "train.loggers" in record.getMessage()]
    assert warnings == ["train.loggers: recorder failed and is left out from step 4 on: the server is gone"]
    with (tmp_path / "run/metrics.csv").open() as file:
        assert {int(row["step"]) for row in csv.DictReader(file)} == {2, 4, 6}


def test_csv_has_the_same_numbers_and_a_resumed_run_no_row_twice(tmp_path: Path) -> None:
    options: dict[str, Any] = {"loggers": ("csv",), "save_every": 2, "optim": {"schedule": {"type": "constant"}}}
    train(toy_config(tmp_path / "whole", **options))
    train(toy_config(tmp_path / "run", **options, steps=4, test=False))
    with (tmp_path / "run/metrics.csv").open("a") as file:
        file.write("5,train/loss,0.1\n6,tra")
    train(toy_config(tmp_path / "run", **options), resume=True)

    def rows(folder: Path) -> dict[tuple[int, str], float]:
        with (folder / "metrics.csv").open() as file:
            listed = [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
        table = {(step, name): value for step, name, value in listed}
        assert len(table) == len(listed)
        return table

    ours, theirs = rows(tmp_path / "run"), rows(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(ours[key] == theirs[key] for key in theirs if key[1] in ("train/loss", "val/loss", "test/loss", "lr"))
    expected = lines(tmp_path / "whole")
    assert all(theirs[step, "train/loss"] == values["train/loss"] for step, values in expected.items())


def test_mlflow_gets_settings_and_finite_metrics_and_a_resumed_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            calls.append(("experiment", name))

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.append(("run", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        def update_run(self, run: str, status: str) -> None:
            calls.append(("continue", run))

        def log_param(self, run: str, key: str, value: str) -> None:
            calls.append(("param", key, value))

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            calls.append(("metrics", run, metrics))

        def set_terminated(self, run: str) -> None:
            calls.append(("end", run))

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.__dict__["MlflowClient"] = Client
    entities.__dict__["Metric"] = lambda name, value, time, step: (name, value, step)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    folder = tmp_path / "digits"
    folder.mkdir()
    first = module.MLflow(LoggedRun(folder, {"train": {"steps": 6}, "optim": {"lr": 0.1}}, 0))
    first.write(2, {"train/loss": 1.5, "train/other": float("nan")})
    first.close()
    module.MLflow(LoggedRun(folder, {}, 2)).close()
    assert calls == [
        ("experiment", "hrt-mm"),
        ("run", "7", "digits"),
        ("param", "train.steps", "6"),
        ("param", "optim.lr", "0.1"),
        ("metrics", "abc", [("train/loss", 1.5, 2)]),
        ("end", "abc"),
        ("continue", "abc"),
        ("end", "abc"),
    ]


def test_weights_and_biases_gets_one_run_also_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []

    def init(**options: Any) -> Any:
        started.append(options)
        return SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)

    wandb = ModuleType("wandb")
    wandb.__dict__["init"] = init
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_PROJECT", "birds")
    first = module.WandB(LoggedRun(tmp_path, {"a": 1}, 0))
    first.write(3, {"train/loss": 0.5})
    first.close()
    module.WandB(LoggedRun(tmp_path, {"a": 1}, 3)).close()
    assert logged == [({"train/loss": 0.5}, 3)]
    assert started[0]["id"] == started[1]["id"] and started[0]["project"] == "birds"
    assert started[0]["config"] == {"a": 1} and started[0]["resume"] == "allow"
    # A new run in the same folder is another run there.
    module.WandB(LoggedRun(tmp_path, {}, 0)).close()
    assert started[2]["id"] != started[0]["id"]


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    train(toy_config(tmp_path / "run", loggers=("wandb",), steps=2, eval_every=None, test=False))
    # The library takes the arguments. When it writes the values to disk is its own affair.
    identity = (tmp_path / "run/wandb-id.txt").read_text()
    (record,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    assert record.name == f"run-{identity}.wandb"


def test_mistakes_are_reported_before_training(recorder: type[Recorder]) -> None:
    with pytest.raises(ConfigError, match=r"no logger 'recoder'; one of .*; did you mean recorder\?"):
        module.check_loggers(("recoder",))
    # A broken logger concerns only those who name it.
    module.check_loggers(("recorder",))


def test_a_missing_library_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_installed", lambda library: False)
    with pytest.raises(ConfigError, match="wandb needs wandb, which is not installed: pip install wandb"):
        module.check_loggers(("wandb",))
    module.check_loggers(("csv",))
