"""Contenders at one size: the memory of each on its own, then their times in turns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .memory import Memory, Prepare, Sizes, TimeLimitError, peak_bytes
from .results import Measured, Row
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
            bytes=entry.peak if entry else None,
            held_bytes=entry.held if entry else None,
            note=raced.notes.get(name, ""),
        )
        for name, entry in memory.items()
    }
    return measured, raced


def limited(
    benchmark: str,
    prepare: Prepare,
    names: Sequence[str],
    sizes: Sizes,
    warm: Sizes,
    settings: Mapping[str, Any],
    rounds: tuple[int, int],
) -> Row:
    """Measures contenders of which some may take too long or too much memory: these have no figures, and it is said.

    Args:
        benchmark: module that ``prepare`` is from.
        prepare: makes a contender's call.
        names: contenders; the first one is what the others are compared with.
        sizes: of the call.
        warm: small sizes, for the call that loads libraries before memory is read.
        settings: of the benchmark, with ``device``, ``memory``, ``budget_seconds`` and ``limit_seconds``.
        rounds: fewest and most timed calls.
    """
    memory: dict[str, Memory | None] = {}
    notes: dict[str, str] = {}
    limit = settings["limit_seconds"]
    for name in names:
        try:
            memory[name] = peak_bytes(benchmark, prepare, name, sizes, warm, settings, limit)
        except TimeLimitError:
            notes[name] = f"over {limit:g} s"
        except MemoryError:
            notes[name] = "out of memory"
    calls = {name: prepare(name, sizes, settings).call for name in memory}
    raced = race(calls, torch.device(settings["device"]), budget=settings["budget_seconds"], rounds=rounds)
    notes |= raced.notes
    contenders = {}
    for name in names:
        used = memory.get(name)
        contenders[name] = Measured(
            seconds=raced.median(name) if name in memory else None,
            quartiles=raced.quartiles(name) if name in memory else None,
            bytes=used.peak if used else None,
            held_bytes=used.held if used else None,
            note=notes.get(name, ""),
        )
    first, ratios = names[0], dict[str, float]()
    first_contender = contenders[first]
    for name in memory.keys() - {first}:
        if first in memory and (ratio := raced.ratio(name, first)) is not None:
            ratios[f"{name}/{first} seconds"] = ratio
        if first_contender.bytes and (other := contenders[name].bytes):
            ratios[f"{first}/{name} bytes"] = first_contender.bytes / other
    print(f"{sizes}: " + ", ".join(f"{key} {value:.3g}" for key, value in ratios.items()), file=sys.stderr, flush=True)
    return Row(sizes=sizes, contenders=contenders, ratios=dict(sorted(ratios.items())))
