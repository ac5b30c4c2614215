"""Where the time of two contenders goes: seconds by operator, from PyTorch's profiler."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .timing import Call


def compare(
    calls: Mapping[str, Call], device: torch.device, *, repeats: int, gain: float = 1.0, most: int = 6
) -> list[dict[str, Any]]:
    """Operators that keep the first of two contenders from its ideal time, or help it most, and the sums.

    Args:
        calls: two contenders by name.
        gain: how much faster than the second the first would be, ideally.
        device: on a GPU the time of its kernels is counted, else that of the processor.
        repeats: calls, of which the medians count.
        most: operators to give.

    Returns:
        Lines of ``operator``, milliseconds a call by contender, and ``over_ideal``: how far the first is over the
        second's time divided by the gain. The last two lines are the sum over all operators, and the rest of the time:
        Python, plans, and on a GPU all that its kernels do not hide.
    """
    spent, rest = {}, {}
    for name, call in calls.items():
        wall, spent[name] = _by_operator(call, device, repeats)
        rest[name] = max(0.0, wall - sum(spent[name].values()))
    first, second = spent
    operators = sorted(
        {name for result in spent.values() for name in result},
        key=lambda name: -abs(spent[first].get(name, 0) - spent[second].get(name, 0) / gain),
    )
    pairs = {name: (spent[first].get(name, 0.0), spent[second].get(name, 0.0)) for name in operators[:most]}
    pairs["all operators"] = sum(spent[first].values()), sum(spent[second].values())
    pairs["outside operators"] = rest[first], rest[second]
    return [
        {"operator": name, first: item, second: other, "over_ideal": item - other / gain}
        for name, (item, other) in pairs.items()
    ]


def _by_operator(call: Call, device: torch.device, repeats: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of a call, and by operator: medians, since one that is interrupted is charged for the break."""
    call()
    walls, seconds_by_name = [], []
    for _ in range(repeats):
        wall, spent = _once(call, device)
        walls.append(wall)
        seconds_by_name.append(spent)
    names = {name for spent in seconds_by_name for name in spent}
    medians = {name: statistics.median(spent.get(name, 0.0) for spent in seconds_by_name) for name in names}
    return statistics.median(walls), medians


def _once(call: Call, device: torch.device) -> tuple[float, dict[str, float]]:
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities, acc_events=True) as run:
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
        wall = (time.perf_counter() - start) * 1e3
    spent = {}
    for event in run.key_averages():
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros > 0:
            spent[event.key] = micros / 1e3
    return wall, spent
