from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.train.toy_processes import finished, logged, start, wait_for_step

STEPS = 36
RUN: dict[str, Any] = {
    "steps": STEPS, "ema": 0.9, "accumulate": 2, "log_every": 3, "eval_every": 7, "save_every": 4,
    "data": {"delay": 0.001, "unreadable": (5,), "samples": 100}, "max_bad_share": 0.05, "time_limit": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert finished(start(folder, RUN)) == 0
    return folder


def assert_equal_runs(folder: Path, expected: Path) -> None:
    for part in ("model", "optimizer", "ema"):
        name = f"checkpoints/step-{STEPS:08d}/{part}.safetensors"
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), part
    assert logged(folder, timed=False) == logged(expected, timed=False)
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (folder, expected))
    for key in ("metrics", "samples", "tokens", "steps", "best_step", "bad_samples"):
        assert ours[key] == theirs[key]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_three_times_and_resumed_it_equals_the_uninterrupted_run(
    tmp_path: Path, uninterrupted: Path, workers: int
) -> None:
    keywords, moments = RUN | {"workers": workers}, random.Random(workers)
    folder = tmp_path / "run"
    gate = f"{2 * (STEPS - 3)}:{tmp_path / 'never'}"
    reached = 0
    for number in range(3):
        process = start(folder, keywords, resume=number > 0, TOY_GATE=gate)
        reached = moments.randint(reached, reached + STEPS // 4)
        wait_for_step(folder, reached)
        time.sleep(moments.random() * 0.05)
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        assert finished(process) == -signal.SIGKILL
        assert not (folder / "summary.json").exists()
    assert finished(start(folder, keywords, resume=True)) == 0
    assert_equal_runs(folder, uninterrupted)


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_to_the_group_saves_and_exits_with_its_code_and_the_run_goes_on_exactly(
    tmp_path: Path, uninterrupted: Path, workers: int, number: signal.Signals
) -> None:
    keywords = RUN | {"workers": workers, "save_every": None}
    process = start(tmp_path / "run", keywords, TOY_GATE=f"{2 * (STEPS - 3)}:{tmp_path / 'gate'}")
    wait_for_step(tmp_path / "run", 9)
    assert process.pid is not None
    os.killpg(process.pid, number)
    (tmp_path / "gate").touch()
    assert finished(process) == 128 + number
    assert not (tmp_path / "run" / "summary.json").exists()
    saved = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert int(saved.removeprefix("step-")) >= 9
    assert finished(start(tmp_path / "run", keywords, resume=True)) == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)
