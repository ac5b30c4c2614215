"""Times of contenders that run in turns, so that a machine that drifts does so for all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Race:
    """Seconds of each contender in each round; one list may be empty, where a contender ran out of memory."""

    seconds: Mapping[str, Sequence[float]]
    notes: Mapping[str, str]

    def median(self, name: str) -> float | None:
        """Median seconds of a contender."""
        return statistics.median(self.seconds[name]) if self.seconds[name] else None

    def quartiles(self, name: str) -> tuple[float, float] | None:
        """First and third quartile of a contender's seconds."""
        times = self.seconds[name]
        if not times:
            return None
        if len(times) == 1:
            return times[0], times[0]
        first, _, third = statistics.quantiles(times, n=4, method="inclusive")
        return first, third

    def ratio(self, slow: str, fast: str) -> float | None:
        """Median over the rounds of one contender's seconds over another's: each round compares neighbours in time."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=False)
        ratios = [a / b for a, b in pairs]
        return statistics.median(ratios) if ratios else None


def race(
    calls: Mapping[str, Call], device: torch.device, *, budget: float = 20.0, rounds: tuple[int, int] = (3, 40)
) -> Race:
    """Runs the contenders in turns, after a warm-up of each.

    Who goes first changes from round to round. The garbage collector rests meanwhile. Where the warm-up alone takes
    longer than the budget, what a first call costs is lost in it, and it counts as the first round.

    Args:
        calls: by name, what to time.
        device: waited for after every call.
        budget: seconds that the rounds may take together.
        rounds: fewest and most rounds; the fewest are run whatever the budget.
    """
    notes: dict[str, str] = {}
    costs = {}
    for name, call in calls.items():
        try:
            costs[name] = _warm(call, device)
        except torch.OutOfMemoryError:
            notes[name] = "out of memory"
            torch.cuda.empty_cache()
    names = list(costs)
    fewest, most = rounds
    count = min(most, max(fewest, int(budget / max(sum(costs.values()), 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    if names and budget < sum(costs.values()) and count == fewest:
        seconds |= {name: [cost] for name, cost in costs.items()}
        count -= 1
    gc.collect()
    gc.disable()
    try:
        for turn in range(count if names else 0):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                seconds[name].append(_time(calls[name], device))
    finally:
        gc.enable()
    return Race(seconds, notes)


def _warm(call: Call, device: torch.device) -> float:
    """Seconds of a warm call. A GPU is asked thrice, since kernels load and the allocator grows at first."""
    for _ in range(2 if device.type == "cuda" else 0):
        _time(call, device)
    return _time(call, device)


def _time(call: Call, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The power p of the best fit ``seconds ~ sizes ** p``: the slope between the logarithms.

    Args:
        sizes: two or more different ones.
        seconds: one a size.
    """
    x = [math.log(size) for size in sizes]
    y = [math.log(value) for value in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    assert spread > 0, "an exponent needs two different sizes"
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
