"""Commands of the project in processes of their own: their time, and their memory at its peak."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hrt_mm.core.errors import UserError


class Watched(NamedTuple):
    """What a process took.

    Args:
        seconds: by the wall clock.
        processor_seconds: of all its threads.
        peak: bytes of resident memory.
    """

    seconds: float
    processor_seconds: float
    peak: int


def watched(words: Sequence[str], log: Path, threads: int, out: Path | None = None) -> Watched:
    """Runs ``hrt-mm`` to its end.

    Args:
        words: command and options.
        log: file that what it says of itself goes to.
        threads: that it may compute in.
        out: file that its standard output goes to; where that of this process goes when ``None``.

    Raises:
        UserError: it failed; gives its last words.
    """
    seconds_before, began, peak = _processor_seconds(), time.perf_counter(), 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with ExitStack() as stack:
        log_file = stack.enter_context(log.open("wb"))
        file = None if out is None else stack.enter_context(out.open("wb"))
        command = [sys.executable, "-m", "hrt_mm", *words]
        process = subprocess.Popen(command, stdout=file, stderr=log_file, env=environment)
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise UserError(f"hrt-mm {words[0]} failed: {log.read_text()[-500:]}")
    return Watched(time.perf_counter() - began, _processor_seconds() - seconds_before, peak)


def _processor_seconds() -> float:
    """Of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _peak(process: int) -> int:
    """Bytes of resident memory of a process at its peak; ``ru_maxrss`` would count this one's before it."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0
