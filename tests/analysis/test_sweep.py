"""Sweeps: every combination and seed is trained once, a stopped sweep goes on, and one bad run does not end it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hrt_mm.analysis.sweep import Sweep
from hrt_mm.cli.main import main
from hrt_mm.core.errors import ConfigError, UserError

SHORT = ["train.steps=3", "train.batch_size=4", "train.eval_every=3", "train.test=false", "train.tensorboard=false"]
HEAD = f"config: vision/digits\noverrides: {json.dumps([*SHORT, 'train.eval_batches=2'])}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(HEAD + text)
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_trains_each_combination_for_each_seed_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "grid: {optim.lr: [1.0e-3, 1.0e-2], task.label_smoothing: [0.1]}\nseeds: [0, 3]\n")
    out = tmp_path / "out"
    assert main(["sweep", str(path), "--dir", str(out), "train.steps=2"]) == 0
    table = capsys.readouterr().out
    folders = sorted(folder.name for folder in (out / "runs").iterdir())
    assert folders == [
        f"optim.lr={lr},task.label_smoothing=0.1,seed={seed}" for lr in ("0.001", "0.01") for seed in (0, 3)
    ]
    runs = rows(out)
    assert len(runs) == 4
    for row in runs:
        folder = out / "runs" / f"optim.lr={row['optim.lr']},task.label_smoothing=0.1,seed={row['seed']}"
        summary = json.loads((folder / "summary.json").read_text())
        assert float(row["val/accuracy"]) == summary["metrics"]["val/accuracy"]
        assert summary["steps"] == 2 and summary["seed"] == int(row["seed"])
    best = max(
        ("0.001", "0.01"), key=lambda lr: sum(float(row["val/accuracy"]) for row in runs if row["optim.lr"] == lr)
    )
    first = next(line for line in table.splitlines() if line.startswith("| 0."))
    assert first.startswith(f"| {best} | 0.1 | **") and "±" in first and "| 2 |" in first

    # A sweep that was stopped trains only what is missing.
    (out / "runs" / folders[0] / "summary.json").unlink()
    before = {name: (out / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in folders[1:]}
    assert main(["sweep", str(path), "--dir", str(out), "train.steps=2"]) == 0
    assert {name: (out / "runs" / name / "metrics.jsonl").stat().st_mtime_ns for name in folders[1:]} == before
    assert rows(out) == runs


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    path = written(tmp_path, "grid: {optim.lr: [1.0e+30, 1.0e-3]}\n")
    sweep = Sweep(path, tmp_path / "out")
    diverged, good = sweep.run()
    assert not diverged.values and "not finite" in diverged.failures[0]
    assert good.values and good.deviation is None
    lines = sweep.table().splitlines()
    assert lines[2].startswith("| 0.001 | **") and lines[3].startswith("| 1e+30 | failed | 0, 1 failed |")
    failure = next(row["failure"] for row in rows(tmp_path / "out") if row["failure"])
    assert failure == diverged.failures[0]


def test_optuna_draws_the_same_combinations_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = "space: {optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, model.levels.digit.depth: [1, 2]}\ntrials: 2\n"
    path = written(tmp_path, space)
    drawn = [one.settings for one in Sweep(path, tmp_path / "out").run()]
    assert len(drawn) == 2 and all(1e-4 <= float(str(one["optim.lr"])) <= 1e-2 for one in drawn)
    folders = {folder.name for folder in (tmp_path / "out/runs").iterdir()}
    assert [one.settings for one in Sweep(path, tmp_path / "out").run()] == drawn
    assert {folder.name for folder in (tmp_path / "out/runs").iterdir()} == folders


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {optim.rate: [1]}", r"optim\.rate"),
        ("seeds: [0]", "give one of grid and space; neither is given"),
        ("grid: {optim.lr: []}", r"grid\.optim\.lr"),
        ("grid: {optim.lr: [0.1]}\nseeds: [1, 1]", r"seeds \[1, 1\] repeat"),
        ("grid: {optim.lr: [0.1]}\nmetric: val/accuracy", "needs a mode: max or min"),
        ("space: {optim.lr: {low: 1, high: 0.1}}\ntrials: 2", "low 1 is not less than high 0.1"),
        ("space: {optim.lr: {low: 0, high: 0.1, log: true}}\ntrials: 2", "low 0 has no logarithm"),
        ("grid: {optim.lr: [0.1]}\nlayers: 3", "layers"),
        # The last combination is wrong: found before anything is trained.
        ("grid: {model.levels.strokes.heads: [3, 5]}", "not divisible by heads 5"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sweep(written(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_or_broken_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="a sweep is a map with config and grid, got list"):
        Sweep(tmp_path / "list.yaml", tmp_path / "out")


def test_an_unknown_metric_is_refused_with_those_of_the_run(tmp_path: Path) -> None:
    path = written(tmp_path, "grid: {optim.lr: [1.0e-3]}\nmetric: val/f2\nmode: max\n")
    with pytest.raises(ConfigError, match=r"metric 'val/f2' is not one of the run's: .*val/accuracy"):
        Sweep(path, tmp_path / "out").run()
