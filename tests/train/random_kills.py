"""Kills ranks and launchers at random, and compares the runs with ones that nobody stopped.

``python -m tests.train.random_kills [KILLS]``: as many kills (10) of a run of one rank, and of a run of two. A kill is
a SIGKILL of one rank, of all, or of the launcher, PyTorch's elastic agent. After the last one, weights, moving average,
optimizer state and log must be those of a run without kills, bit for bit.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hrt_mm.cli.process import as_process
from hrt_mm.train.loop import train
from hrt_mm.train.store import CheckpointStore
from tests.train.toy_processes import logged
from tests.train.toy_training import toy_config

STEPS = 150
RUN: dict[str, Any] = {
    "steps": STEPS, "batch_size": 6, "accumulate": 2, "ema": 0.9, "log_every": 1, "eval_every": 50, "save_every": 7,
    "data": {"held_out": 6},
}  # fmt: skip


def rank(folder: Path, resume: bool) -> None:
    # A function of the agent gets SIGINT when the agent dies; a command of torchrun does not.
    ctypes.CDLL(None).prctl(1, 0)
    torch.set_num_threads(1)

    def run() -> int:
        train(toy_config(folder, **RUN), resume=resume)
        return 0

    if code := as_process(run):
        os._exit(code)


def launch(folder: Path, ranks: int, *, resume: bool = False) -> int:
    """Starts ranks under an agent in a process of its own, whose id is returned."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log = os.open(folder.with_suffix(".log"), os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    config = LaunchConfig(
        1, 1, ranks, start_method="fork", max_restarts=100, monitor_interval=0.2, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", run_id=str(os.getpid()),
    )  # fmt: skip
    try:
        elastic_launch(config, rank)(folder, resume)
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)
    os._exit(0)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def ranks_of(launcher: int) -> list[int]:
    """The ranks of a launcher that run."""
    try:
        threads = list(Path(f"/proc/{launcher}/task").iterdir())
        children = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    except OSError:
        return []
    return list(filter(is_running, children))


def last_step(folder: Path) -> int:
    """Of the log, or 0."""
    lines = logged(folder)
    return int(lines[-1]["step"]) if lines else 0


def kill_at_random(folder: Path, ranks: int, kills: int, draw: random.Random) -> list[str]:
    """Trains to the end in spite of some kills; what was killed."""
    launcher, kinds = launch(folder, ranks), [draw.choice(["rank", "all", "launcher"]) for _ in range(kills)]
    for number, kind in enumerate(kinds, start=1):
        # Some progress lies between two kills, or the run would never end.
        goal = min(STEPS * number // (kills + 2) + draw.randint(-4, 4), STEPS - 4)
        while last_step(folder) < goal or len(ranks_of(launcher)) < ranks:
            assert is_running(launcher), folder.with_suffix(".log").read_text()
            time.sleep(0.005)
        time.sleep(draw.random() / 10)
        running, step, start = ranks_of(launcher), last_step(folder), time.monotonic()
        for pid in {"rank": [draw.choice(running)], "all": running, "launcher": [launcher]}[kind]:
            os.kill(pid, signal.SIGKILL)
        if kind == "launcher":
            os.waitpid(launcher, 0)
        while any(map(is_running, running)):
            time.sleep(0.02)
        print(
            f"{ranks} ranks: {kind} killed at step {step}; all ended after {time.monotonic() - start:.1f} s", flush=True
        )
        if kind == "launcher":
            launcher = launch(folder, ranks, resume=True)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == 0, folder.with_suffix(".log").read_text()
    return kinds


def main(kills: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for ranks in (1, 2):
            one, other = Path(scratch) / f"whole-{ranks}", Path(scratch) / f"killed-{ranks}"
            assert os.waitstatus_to_exitcode(os.waitpid(launch(one, ranks), 0)[1]) == 0
            kinds = kill_at_random(other, ranks, kills, random.Random(ranks))
            saved, expected = (CheckpointStore(folder).read(STEPS) for folder in (other, one))
            equal = all(
                torch.equal(saved.tensors(part)[name], value)
                for part in ("model", "ema", "optimizer")
                for name, value in expected.tensors(part).items()
            )
            counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
            same_log = logged(other, timed=False) == logged(one, timed=False)
            print(
                json.dumps({"ranks": ranks, "kills": counts, "bit_identical": equal, "same_log": same_log}), flush=True
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
