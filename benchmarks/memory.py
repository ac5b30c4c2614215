"""Peak memory of a call.

On CUDA it is what PyTorch's allocator counts (``max_memory_allocated``). On the CPU PyTorch counts nothing, so each
contender runs at each size in a fresh process of its own, and the kernel counts:

1. The process runs the contender once at a small size, so that libraries, thread pools and code are loaded.
2. It makes the contender at the size in question, gives free memory back (``malloc_trim``), resets the kernel's
   high-water mark of resident memory (``/proc/self/clear_refs``) and reads the resident size.
3. After one call it reads the high-water mark (``VmHWM``). The difference is what the call took at its peak.

``MALLOC_MMAP_THRESHOLD_`` makes the C allocator map each block over 64 KiB on its own and return it at once when
it is freed. So the peak is that of live tensors and of the kernels' own workspaces, and not of memory kept in
reserve. What the contender holds before the call (weights, optimizer state, input) is counted from its tensors and
given beside it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .timing import Call

Sizes = dict[str, int | float | str]

MEASURABLE = ("encoder_scaling", "overhead", "learning_rate", "audio", "video", "recall")
"""Benchmarks that can be asked for a contender: their modules have ``prepare(contender, sizes, settings)``."""

EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment of a measuring process: freed memory goes back to the system at once."""


@dataclass(frozen=True)
class Prepared:
    """A contender at a size, ready to be called.

    Args:
        call: what is timed.
        held: bytes of weights, optimizer state and input.
    """

    call: Call
    held: int


Prepare = Callable[[str, Sizes, Mapping[str, Any]], Prepared]


class TimeLimitError(RuntimeError):
    """A process computed for longer than it may."""


class Memory(NamedTuple):
    """Bytes of a call at its peak, beyond what is held before it, and that: weights, optimizer state, input."""

    peak: int
    held: int


def peak_bytes(
    benchmark: str,
    prepare: Prepare,
    contender: str,
    sizes: Sizes,
    warm: Sizes,
    settings: Mapping[str, Any],
    limit: float | None = None,
) -> Memory | None:
    """Peak memory of a contender's call; ``None`` where it cannot be told.

    Args:
        benchmark: module that the contender is from, one of ``MEASURABLE``.
        prepare: its function of that name.
        contender: which one.
        sizes: of the call.
        warm: small sizes, for the call that loads libraries.
        settings: of the benchmark; plain JSON values, with the device under ``device``, and whether to measure at all
            under ``memory``.
        limit: seconds that the process may compute for the call at that size; any time when ``None``.

    Raises:
        TimeLimitError: it took longer.
        MemoryError: the system stopped the process, as it does where memory is short.
    """
    if not settings["memory"]:
        return None
    if torch.device(settings["device"]).type == "cuda":
        return _cuda_peak(prepare(contender, sizes, settings))
    if not Path("/proc/self/clear_refs").exists():
        return None
    request = {"contender": contender, "sizes": sizes, "warm": warm, "settings": dict(settings), "limit": limit}
    command = [sys.executable, "-m", "benchmarks.memory", benchmark, json.dumps(request)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | EXACT, cwd=root, check=False)
    if done.returncode == -signal.SIGXCPU:
        raise TimeLimitError
    if done.returncode == -signal.SIGKILL:
        raise MemoryError
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {contender} at {sizes} failed:\n{done.stderr[-2000:]}")
    peak, held = done.stdout.splitlines()[-1].split()
    return Memory(int(peak), int(held))


def _cuda_peak(prepared: Prepared) -> Memory | None:
    try:
        prepared.call()
        torch.cuda.synchronize()
        allocated_before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        prepared.call()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    return Memory(torch.cuda.max_memory_allocated() - allocated_before, prepared.held)


def cpu_peak(call: Call) -> int:
    """Peak bytes of a call in this process, which is to do nothing else and to have run something like it before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    resident_before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - resident_before)


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match, f"/proc/self/status has no {field}"
    return int(match[1]) * 1024


def _main(benchmark: str, text: str) -> None:
    """Measures one contender in this process and prints the bytes."""
    assert benchmark in MEASURABLE, benchmark
    request = json.loads(text)
    torch.set_num_threads(request["settings"]["threads"])
    prepare: Prepare = importlib.import_module(f"benchmarks.{benchmark}").prepare
    prepare(request["contender"], request["warm"], request["settings"]).call()
    if (limit := request["limit"]) is not None:
        # The kernel stops the process once it has computed for so long: on a busy machine the clock would say little.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + limit), resource.RLIM_INFINITY))
    prepared = prepare(request["contender"], request["sizes"], request["settings"])
    print(cpu_peak(prepared.call), prepared.held)


if __name__ == "__main__":
    _main(*sys.argv[1:])
