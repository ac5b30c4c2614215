"""Running sums of metrics, so that means are exact over batches, ranks and resumptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..core.devices import wide
from ..tasks.base import TaskOutput
from ..tasks.batch import Batch
from ..tasks.labels import macro_f1

Sums = dict[str, tuple[float, float]]
"""Sum and count by metric."""


def weight_of(output: TaskOutput, batch: Batch) -> Tensor:
    """The weight of a batch's loss: the count that it is a mean over.

    That is the number of samples, unless the task reports ``loss`` in its stats with another count.
    """
    if "loss" in output.stats:
        return wide(output.stats["loss"][1].detach())
    return wide(torch.tensor(float(len(batch)), device=output.loss.device))


class Meters:
    """Running sums of a task's metrics, on the device of the model."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._class_counts: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, output: TaskOutput, batch: Batch) -> None:
        """Adds a batch: its stats, and its loss and the parts of it that are not among the stats."""
        weight = weight_of(output, batch)
        for name, value in {"loss": output.loss, **output.parts}.items():
            if name not in output.stats:
                self._add(name, wide(value.detach()) * weight, weight)
        for name, (total, count) in output.stats.items():
            self._add(name, wide(total.detach()), wide(count.detach()))
        for name, counts in output.class_counts.items():
            self._class_counts[name] = self._class_counts[name] + counts if name in self._class_counts else counts
        for name, rows in output.rows.items():
            self._rows.setdefault(name, []).append(rows.detach().cpu())

    def add_value(self, name: str, value: float) -> None:
        """Adds a value that is on the host, once for all ranks."""
        self._add(name, torch.tensor(value, dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        # They stay on the device: reading them in every step would wait for it.
        pair = torch.stack([total, count.to(total.device)])
        self._sums[name] = self._sums[name].to(pair.device) + pair if name in self._sums else pair

    def restore(self, sums: Mapping[str, Iterable[float]]) -> None:
        """Restores what :meth:`sums` returned."""
        self._sums = {name: torch.tensor(list(pair), dtype=torch.float64) for name, pair in sums.items()}

    def sums(self) -> Sums:
        """The sums, on the host."""
        if not self._sums:
            return {}
        # One transfer for all of them.
        read = torch.stack([pair.cpu() for pair in self._sums.values()]).tolist()
        return {name: (total, count) for name, (total, count) in zip(self._sums, read, strict=True)}

    def class_counts(self) -> dict[str, Tensor]:
        """(3, K) counts of correct predictions, predictions and true samples of K classes by metric, on the host."""
        return {name: counts.cpu() for name, counts in self._class_counts.items()}

    def rows(self) -> dict[str, Tensor]:
        """The rows of all batches by name, on the host."""
        return {name: torch.cat(rows) for name, rows in self._rows.items()}


def added(by_rank: Iterable[Sums]) -> Sums:
    """The sums of several ranks, added up."""
    total: Sums = {}
    for sums in by_rank:
        for name, (value, count) in sums.items():
            previous_value, previous_count = total.get(name, (0.0, 0.0))
            total[name] = (previous_value + value, previous_count + count)
    return total


def means(sums: Sums, prefix: str) -> dict[str, float]:
    """Sum over count by ``prefix/name``, without metrics whose count is 0."""
    return {f"{prefix}/{name}": value / count for name, (value, count) in sums.items() if count}


def macro_f1s(by_rank: Sequence[Mapping[str, Tensor]], prefix: str) -> dict[str, float]:
    """Macro-F1 from the class counts of all ranks, without metrics that have no true samples."""
    totals = _totals(by_rank)
    return {f"{prefix}/{name}": macro_f1(counts_3K) for name, counts_3K in totals.items() if counts_3K[2].any()}


def classes_without_samples(by_rank: Sequence[Mapping[str, Tensor]]) -> dict[str, list[int]]:
    """The classes without true samples by macro-F1 metric, which the metric leaves out."""
    totals = _totals(by_rank)
    return {name: (counts_3K[2] == 0).nonzero().flatten().tolist() for name, counts_3K in totals.items()}


def _totals(by_rank: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for counts in by_rank:
        for name, counts_3K in counts.items():
            totals[name] = totals[name] + counts_3K if name in totals else counts_3K
    return totals


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a metric is at least as good as the best so far. A non-finite value never is.

    Args:
        value: the new one.
        best: the best so far, if any.
        mode: ``min`` or ``max``.
    """
    if not math.isfinite(value):
        return False
    # Of equals the later one is taken, as it has seen more.
    return best is None or (value <= best if mode == "min" else value >= best)
