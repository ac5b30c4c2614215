"""``train.monitor`` and ``train.early_stopping``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_mm.train.callbacks import Callback, CallbackRun
from hrt_mm.train.config import EarlyStopping, TrainConfig
from hrt_mm.train.loop import train
from hrt_mm.train.monitor import Monitor, Patience, mode_of, monitor_of
from hrt_mm.train.pretrain import pretraining
from hrt_mm.train.rehearsal import rehearse
from hrt_mm.train.store import open_store
from tests.train.toy_processes import finished, logged, start_ranks
from tests.train.toy_training import ToyTask, ToyTaskConfig, toy_config

NEVER_BETTER: dict[str, Any] = {"patience": 3, "min_delta": 100.0}


class Killed(Exception):
    pass


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: CallbackRun) -> None:
        if run.state.step == self.step:
            raise Killed


def summary(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return read


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val/loss", "min"), ("val/cross_entropy", "min"), ("val/phoneme_error_rate", "min"), ("val/rmse", "min"),
        ("val/bits_per_byte", "min"), ("val/accuracy", "max"), ("val/macro_f1", "max"), ("val/f1_40ms", "max"),
        ("val/image-text/R@10", "max"), ("val/text/recall", "max"), ("val/temperature", None), ("val/error_f1", None),
    ],
)  # fmt: skip
def test_the_name_of_a_metric_tells_which_way_is_better(metric: str, mode: str | None) -> None:
    assert mode_of(metric) == mode


def monitored(**train: Any) -> Monitor:
    config = toy_config(Path("unused"))
    (model,) = config.models.values()
    return monitor_of(TrainConfig(steps=1, batch_size=1, **train), ToyTask(ToyTaskConfig(), model))


def test_what_chooses_the_best_weights() -> None:
    assert monitored() == Monitor("val/accuracy", "max")
    assert monitored(monitor="val/loss") == Monitor("val/loss", "min")
    assert monitored(monitor="val/loss", monitor_mode="max") == Monitor("val/loss", "max")
    assert monitored(monitor="val/temperature", monitor_mode="min") == Monitor("val/temperature", "min")
    with pytest.raises(ConfigError, match=r"val/temperature: .* set train.monitor_mode to min or max"):
        monitored(monitor="val/temperature")
    with pytest.raises(ConfigError, match=r"train.monitor accuracy: .* such as val/loss or val/accuracy"):
        monitored(monitor="accuracy")


def test_the_chosen_metric_decides_which_checkpoint_is_best(tmp_path: Path) -> None:
    folder = train(toy_config(tmp_path / "run", steps=8, eval_every=1, keep_last=9, save_every=1, monitor="val/loss"))
    losses = {line["step"]: line["val/loss"] for line in logged(folder) if "val/loss" in line}
    assert summary(folder)["best_step"] == min(losses, key=losses.__getitem__)
    store = open_store(folder)
    assert (store.monitor, store.mode) == ("val/loss", "min")


def test_an_unknown_metric_is_refused_before_training_with_those_that_there_are(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", monitor="val/acuracy", monitor_mode="max")
    listed = r"train.monitor: val/acuracy .* the metrics of val are val/.*val/accuracy"
    with pytest.raises(ConfigError, match=listed):
        rehearse(config)
    with pytest.raises(ConfigError, match=listed):
        train(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "options", [{"early_stopping": EarlyStopping(patience=1)}, {"monitor": "val/loss"}, {"monitor_mode": "min"}]
)
def test_without_evaluations_nothing_can_be_monitored(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(options))} needs evaluations on val"):
        TrainConfig(steps=1, batch_size=1, eval_every=None, **options)


def test_patience_counts_evaluations_without_enough_of_an_improvement() -> None:
    patience, seen = Patience(), []
    for value in (1.0, 0.95, 0.89, math.nan, 0.88, 0.7):
        patience.update(value, "min", 0.1)
        seen.append((patience.best, patience.stale))
    assert seen == [(1.0, 0), (1.0, 1), (0.89, 0), (0.89, 1), (0.89, 2), (0.7, 0)]
    patience = Patience()
    for value in (0.5, 0.5, 0.4):
        patience.update(value, "max", 0.0)
    assert (patience.best, patience.stale) == (0.5, 2)
    assert patience.exhausted(EarlyStopping(patience=2))
    assert not patience.exhausted(EarlyStopping(patience=3))
    assert not patience.exhausted(None)


def test_training_stops_early_and_tests_the_best_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common: dict[str, Any] = {"steps": 30, "eval_every": 2, "save_every": None}
    folder = train(toy_config(tmp_path / "run", early_stopping=NEVER_BETTER, **common))
    assert "train.early_stopping at step 8 of 30: val/accuracy was not better than" in capsys.readouterr().err
    ended = summary(folder)
    assert ended["steps"] == 8
    assert "test/accuracy" in ended["metrics"]
    assert max(open_store(folder).steps()) == 8
    # A finished run stays so; with more patience it goes on.
    train(toy_config(tmp_path / "run", early_stopping=NEVER_BETTER, **common), resume=True)
    assert summary(folder)["steps"] == 8
    train(toy_config(tmp_path / "run", early_stopping=NEVER_BETTER | {"patience": 5}, **common), resume=True)
    assert summary(folder)["steps"] == 12


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "steps": 30, "eval_every": 2, "save_every": 3, "monitor": "val/loss", "early_stopping": NEVER_BETTER
    }  # fmt: skip
    train(toy_config(tmp_path / "whole", **options))
    for step in (4, 7):
        with pytest.raises(Killed):
            train(toy_config(tmp_path / "killed", **options), resume=True, callbacks=[KillAt(step)])
    train(toy_config(tmp_path / "killed", **options), resume=True)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert summary(killed)["steps"] == summary(whole)["steps"] == 8
    assert summary(killed)["metrics"] == summary(whole)["metrics"]
    assert logged(killed, timed=False) == logged(whole, timed=False)
    for part in ("model", "optimizer"):
        name = f"checkpoints/step-00000008/{part}.safetensors"
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_ranks_stop_early_together(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 30, "eval_every": 2, "early_stopping": NEVER_BETTER}
    assert [finished(process) for process in start_ranks(tmp_path / "run", options, 2)] == [0, 0]
    assert summary(tmp_path / "run")["steps"] == 8


def test_pretraining_runs_to_its_end_by_its_own_metric(tmp_path: Path) -> None:
    options: dict[str, Any] = {"monitor": "val/macro_f1", "early_stopping": NEVER_BETTER}
    config = toy_config(tmp_path, pretrain={"task": {"type": "masked"}, "steps": 3}, **options)
    assert config.train.pretrain is not None
    before = pretraining(config, config.train.pretrain).train
    assert (before.monitor, before.early_stopping) == (None, None)
