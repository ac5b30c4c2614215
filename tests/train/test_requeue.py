from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from hrt_mm.core.errors import Stopped
from hrt_mm.train.callbacks import Callback, CallbackRun
from hrt_mm.train.loop import train
from hrt_mm.train.requeue import requeue
from hrt_mm.train.signals import StopSignals
from hrt_mm.train.store import CheckpointStore
from tests.train.toy_training import toy_config

SCONTROL = """#!/bin/sh
echo "$@" >> "$CALLS"
[ "$1" = show ] && echo "JobId=7 JobState=RUNNING Requeue=$REQUEUE Restarts=0 BatchFlag=$BATCH Reboot=0"
[ "$1" = requeue ] && [ -n "$REFUSAL" ] && echo "$REFUSAL" >&2 && exit 1
exit 0
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in for ``scontrol`` notes how it was called."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(SCONTROL)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    variables = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"),
        "REQUEUE": "1", "BATCH": "1", "REFUSAL": "", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


class SignalAtStep(Callback):
    """Sends a signal to this process after the second step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_step(self, run: CallbackRun) -> None:
        if run.state.step == 2:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_sigusr1_queues_the_job_again(
    number: int, code: int, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(tmp_path / "run", eval_every=None, test=False)
    with pytest.raises(Stopped) as stopped:
        train(config, callbacks=[SignalAtStep(number)])
    assert stopped.value.exit_code == code
    assert CheckpointStore(tmp_path / "run").steps() == [2]
    expected = ["show job 7", "requeue 7"] if number == signal.SIGUSR1 else []
    assert calls.read_text().splitlines() == expected
    # The job that was queued again continues without --resume.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(config)
    assert CheckpointStore(tmp_path / "run").steps()[-1] == 6


@pytest.mark.parametrize(
    ("variable", "value", "calls_made", "message"),
    [
        ("REQUEUE", "0", 1, "SLURM job 7 is not queued again, because of --no-requeue"),
        ("BATCH", "0", 1, "SLURM job 7 is not queued again, because it was not submitted by sbatch"),
        ("REFUSAL", "Access denied", 2, "SLURM job 7 is not queued again: scontrol: Access denied"),
        ("PATH", "/nowhere", 0, "SLURM job 7 is not queued again: [Errno 2] No such file or directory: 'scontrol'"),
    ],
)
def test_jobs_that_are_not_queued_again(
    variable: str,
    value: str,
    calls_made: int,
    message: str,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, value)
    assert not requeue(os.environ)
    assert len(calls.read_text().splitlines()) == calls_made
    assert [record.getMessage() for record in caplog.records] == [message]


def test_one_task_of_an_array_is_queued_again(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue(os.environ)
    assert calls.read_text().splitlines() == ["show job 5_3", "requeue 5_3"]


def test_a_run_stops_when_its_launcher_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, alone = StopSignals(launched=True), StopSignals()
    assert (launched.number, alone.number) == (0, 0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert (launched.number, alone.number) == (signal.SIGTERM, 0)


def test_sigusr1_is_not_forgotten_over_sigterm() -> None:
    assert threading.current_thread() is threading.main_thread()
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGUSR1
