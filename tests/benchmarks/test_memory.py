"""Peak memory on a CPU is what the call's tensors took at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import memory, models, overhead

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")

SCRIPT = """
import torch
from benchmarks.memory import cpu_peak
torch.set_num_threads(1)
def call():
    first = torch.ones({first} << 18)
    del first
    second = torch.ones({second} << 18)
call()
print(cpu_peak(call))
"""


def measured(first: int, second: int) -> int:
    """Bytes counted for a call that holds so many MiB, one after the other."""
    command = [sys.executable, "-c", SCRIPT.format(first=first, second=second)]
    return int(subprocess.run(command, capture_output=True, check=True, env=os.environ | memory.EXACT).stdout)


@linux
def test_the_peak_is_the_largest_sum_of_live_tensors() -> None:
    assert measured(96, 64) / 2**20 == pytest.approx(96, abs=3)


@linux
def test_a_contender_is_measured_in_a_process_of_its_own() -> None:
    settings = {**models.TINY, "device": "cpu", "threads": 1, "memory": True}
    sizes: memory.Sizes = {"mode": "inference", "dtype": "float32", "lengths": "uniform", "batch": 16, "tokens": 256}
    result = memory.peak_bytes("overhead", overhead.prepare, "packed", sizes, sizes | {"batch": 1}, settings)
    # At 4096 tokens of width 32 the feed-forward alone holds 2 * 88 values a token.
    assert result is not None
    assert 4096 * 2 * 88 * 4 < result.peak < 4096 * 32 * 60 * 4
    weights = sum(parameter.nbytes for parameter in models.hierarchy(settings).parameters())
    assert result.held == weights + 4096 * 32 * 4


def test_memory_can_be_left_out() -> None:
    settings = {**models.TINY, "device": "cpu", "threads": 1, "memory": False}
    assert memory.peak_bytes("overhead", overhead.prepare, "packed", {}, {}, settings) is None
