"""Contenders at one size: the memory of each on its own, then their times in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .memory import Prepare, Sizes, peak_bytes
from .results import Measured
from .timing import Race, race


def contest(
    benchmark: str, prepare: Prepare, names: Sequence[str], sizes: Sizes, warm: Sizes, settings: Mapping[str, Any]
) -> tuple[dict[str, Measured], Race]:
    """Measures contenders at a size.

    Args:
        benchmark: module that ``prepare`` is from.
        prepare: makes a contender's call.
        names: contenders.
        sizes: of the call.
        warm: small sizes, for the call that loads libraries before memory is read.
        settings: of the benchmark, with ``device``, ``memory`` and ``budget_seconds``.

    Returns:
        By contender what was measured, and the race for ratios.
    """
    memory = {name: peak_bytes(benchmark, prepare, name, sizes, warm, settings) for name in names}
    calls = {name: prepare(name, sizes, settings).call for name in names}
    raced = race(calls, torch.device(settings["device"]), budget=settings["budget_seconds"])
    measured = {
        name: Measured(
            seconds=raced.median(name),
            quartiles=raced.quartiles(name),
            bytes=found.peak if found else None,
            held_bytes=found.held if found else None,
            note=raced.notes.get(name, ""),
        )
        for name, found in memory.items()
    }
    return measured, raced
