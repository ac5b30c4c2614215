"""Sums behind the metrics: exact over batches, ranks and interruptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..tasks.base import Batch, TaskOutput
from ..tasks.labels import macro_f1

Sums = dict[str, tuple[float, float]]
"""By metric, a sum and the count it is over."""


def weight_of(output: TaskOutput, batch: Batch) -> Tensor:
    """What a batch's loss weighs beside other batches: the count it is a mean over.

    Tasks whose loss is not a mean over samples say so by giving ``loss`` among their stats.
    """
    if "loss" in output.stats:
        return output.stats["loss"][1].detach().double()
    return torch.tensor(float(len(batch)), dtype=torch.float64, device=output.loss.device)


class Meters:
    """Running sums of a task's metrics, on the device that they come from."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._class_counts: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, output: TaskOutput, batch: Batch) -> None:
        """Takes in a batch: its stats, and its loss and parts where they are not among the stats."""
        weight = weight_of(output, batch)
        for name, value in {"loss": output.loss, **output.parts}.items():
            if name not in output.stats:
                self._add(name, value.detach().double() * weight, weight)
        for name, (total, count) in output.stats.items():
            self._add(name, total.detach().double(), count.detach().double())
        for name, counts in output.class_counts.items():
            self._class_counts[name] = self._class_counts[name] + counts if name in self._class_counts else counts
        for name, rows in output.rows.items():
            self._rows.setdefault(name, []).append(rows.detach().cpu())

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        pair = torch.stack([total, count.to(total.device)])
        self._sums[name] = self._sums[name].to(pair.device) + pair if name in self._sums else pair

    def restore(self, sums: Mapping[str, Iterable[float]]) -> None:
        """Starts from what :meth:`sums` gave."""
        self._sums = {name: torch.tensor(list(pair), dtype=torch.float64) for name, pair in sums.items()}

    def sums(self) -> Sums:
        """The sums, read from the device."""
        if not self._sums:
            return {}
        read = torch.stack([pair.cpu() for pair in self._sums.values()]).tolist()
        return {name: (total, count) for name, (total, count) in zip(self._sums, read, strict=True)}

    def class_counts(self) -> dict[str, Tensor]:
        """By metric, (3, K) counts of right predictions, predictions and true samples of K classes, on the host."""
        return {name: counts.cpu() for name, counts in self._class_counts.items()}

    def rows(self) -> dict[str, Tensor]:
        """By name, the rows that were kept, on the host."""
        return {name: torch.cat(rows) for name, rows in self._rows.items()}


def added(parts: Iterable[Sums]) -> Sums:
    """Sums of several ranks together."""
    total: Sums = {}
    for sums in parts:
        for name, (value, count) in sums.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + value, before[1] + count)
    return total


def means(sums: Sums, prefix: str) -> dict[str, float]:
    """The metrics: sum over count, with ``prefix/`` before their names. What was counted nowhere is left out."""
    return {f"{prefix}/{name}": value / count for name, (value, count) in sums.items() if count}


def macro_f1s(parts: Sequence[Mapping[str, Tensor]], prefix: str) -> dict[str, float]:
    """The macro-F1 metrics of several ranks' class counts together. Without true samples there is none."""
    totals = _totals(parts)
    return {f"{prefix}/{name}": macro_f1(counts_3K) for name, counts_3K in totals.items() if counts_3K[2].any()}


def classes_without_samples(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, list[int]]:
    """By macro-F1 metric, the classes that no true sample is of, which the metric leaves out."""
    totals = _totals(parts)
    return {name: (counts_3K[2] == 0).nonzero().flatten().tolist() for name, counts_3K in totals.items()}


def _totals(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for counts in parts:
        for name, counts_3K in counts.items():
            totals[name] = totals[name] + counts_3K if name in totals else counts_3K
    return totals


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a metric is as good as the best one yet, or better; a value that is not finite never is.

    Args:
        value: the new one.
        best: the best one, if any.
        mode: ``min`` or ``max``, whichever is better.
    """
    if not math.isfinite(value):
        return False
    return best is None or (value <= best if mode == "min" else value >= best)
