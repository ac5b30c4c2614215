"""Toy runs in processes of their own: to be killed, to be ranks, to meet a full disk."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import socket
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from hrt_mm.core.errors import UserError
from hrt_mm.train.loop import train
from tests.processes import forkserver
from tests.train.toy_training import toy_config

Keywords = dict[str, Any]


def start(folder: Path, keywords: Keywords, *, resume: bool = False, **environment: str) -> ForkServerProcess:
    """Trains a toy in a process of its own process group.

    With ``TOY_ERRORS``, the start of a file name, a user's error goes to ``TOY_ERRORS-RANK``.
    """
    process = forkserver.Process(target=_train, args=(folder, keywords, resume, environment))
    process.start()
    return process


def _train(folder: Path, keywords: Keywords, resume: bool, environment: dict[str, str]) -> None:
    os.setpgrp()
    # A child of the server would start its loader's workers through a server of its own, which takes seconds.
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if limit := int(environment.get("TOY_LIMIT", "0")):
        # As on a full disk, no file grows past it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train(toy_config(folder, **keywords), resume=resume)
    except UserError as error:
        if "TOY_ERRORS" not in environment:
            raise
        Path(f"{environment['TOY_ERRORS']}-{environment.get('RANK', '0')}").write_text(str(error))
        sys.exit(2)


PATIENCE = 600
"""Seconds after which a process counts as hanging. A loaded machine is slow, and no test measures how fast."""


def finished(process: ForkServerProcess) -> int:
    """The exit code of a process, which must end in time."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def start_ranks(
    folder: Path, keywords: Keywords, world_size: int, *, resume: bool = False, **environment: str
) -> list[ForkServerProcess]:
    """Trains a toy on several ranks, in the environment that torchrun makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | environment
    return [
        start(folder, keywords, resume=resume, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(world_size)
    ]


def train_on_full_disk(folder: Path, keywords: Keywords, limit: int) -> tuple[str, list[str]]:
    """Resumes a toy where no file can grow past ``limit`` bytes; the error, and the warnings before it."""
    ours, theirs = forkserver.Pipe()
    process = forkserver.Process(target=_train_limited, args=(folder, keywords, limit, theirs))
    process.start()
    assert ours.poll(PATIENCE), "the process hangs"
    answer: tuple[str, list[str]] = ours.recv()
    process.join(PATIENCE)
    return answer


def _train_limited(folder: Path, keywords: Keywords, limit: int, answer: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hrt_mm").addHandler(handler)
    try:
        train(toy_config(folder, **keywords), resume=True)
    except ValueError as error:
        answer.send((str(error), warnings))
    else:
        answer.send(("", warnings))


def wait_for_step(folder: Path, step: int) -> None:
    """Waits until the log has a line of this step or a later one."""
    for _ in range(PATIENCE * 200):
        if (lines := logged(folder)) and lines[-1]["step"] >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"{folder} did not reach step {step}")


def logged(folder: Path, *, timed: bool = True) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``, or these without what the clock says."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    clock = () if timed else ("seconds", "tokens_per_second", "data_wait")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]
