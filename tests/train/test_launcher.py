"""Ranks under PyTorch's elastic agent, which is what torchrun runs: a rank that is killed, then the agent itself."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hrt_mm.core.errors import Stopped
from hrt_mm.train.callbacks import Callback, CallbackRun
from hrt_mm.train.loop import train
from hrt_mm.train.store import CheckpointStore
from tests.processes import forkserver
from tests.train.toy_processes import PATIENCE, finished, start, wait_for_step
from tests.train.toy_training import toy_config

RUN: dict[str, Any] = {"steps": 8, "save_every": 1, "log_every": 1, "eval_every": None, "test": False, "ema": 0.9}


def launch(folder: Path, gate: Path) -> None:
    """Starts a rank under an agent that restarts it."""
    os.environ["TOY_GATE"] = f"4:{gate}"
    config = LaunchConfig(
        1, 1, 1, start_method="fork", max_restarts=3, monitor_interval=0.05, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", run_id=str(os.getpid()),
    )  # fmt: skip
    elastic_launch(config, rank)(folder)


def rank(folder: Path) -> None:
    # A function of the agent gets SIGINT when the agent dies; a command of torchrun does not.
    ctypes.CDLL(None).prctl(1, 0)
    torch.set_num_threads(1)
    try:
        train(toy_config(folder, **RUN), callbacks=[Announce()])
    except Stopped as stop:
        folder.with_name("stopped").write_text(str(stop.exit_code))
        raise


class Announce(Callback):
    """Writes the rank's process to ``attempt-RESTARTS`` beside the run folder."""

    def on_start(self, run: CallbackRun) -> None:
        draft = run.folder.with_name("draft")
        draft.write_text(str(os.getpid()))
        draft.rename(run.folder.with_name(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}"))


def process_of(folder: Path, attempt: int) -> int:
    """The rank's process, once it runs."""
    path = folder.with_name(f"attempt-{attempt}")
    for _ in range(PATIENCE * 200):
        if path.exists():
            return int(path.read_text())
        time.sleep(0.005)
    raise AssertionError(f"attempt {attempt} does not start")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched through /proc")
def test_a_rank_and_its_launcher_are_killed(tmp_path: Path) -> None:
    folder, gate = tmp_path / "run", tmp_path / "gate"
    train(toy_config(tmp_path / "one", **RUN))
    launcher = forkserver.Process(target=launch, args=(folder, gate))
    launcher.start()
    wait_for_step(folder, 3)
    os.kill(process_of(folder, 0), signal.SIGKILL)
    # The agent starts the rank again, which continues from step 3 and waits at the gate.
    second = process_of(folder, 1)
    launcher.kill()
    assert finished(launcher) == -signal.SIGKILL
    gate.touch()
    for _ in range(PATIENCE * 200):
        if not is_running(second):
            break
        time.sleep(0.005)
    assert not is_running(second)
    assert folder.with_name("stopped").read_text() == "143"
    assert CheckpointStore(folder).steps()[-1] < 8
    assert finished(start(folder, RUN, resume=True)) == 0
    one, other = (CheckpointStore(path).read(8) for path in (tmp_path / "one", folder))
    for part in ("model", "ema", "optimizer"):
        theirs = other.tensors(part)
        assert all(torch.equal(theirs[name], value) for name, value in one.tensors(part).items())


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
