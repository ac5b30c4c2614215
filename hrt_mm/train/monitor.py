"""The metric that decides which weights are best, and early stopping by it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..core.errors import ConfigError
from ..tasks.base import Task
from .config import EarlyStopping, TrainConfig

_LOWER = "loss|entropy|error|errors|rate|mae|mse|rmse|perplexity|bits|nats|rank|cer|wer|ctc"
_HIGHER = (
    "accuracy|f1|top5|r2|iou|miou|map|mrr|ndcg|precision|recall|auc|bleu|rouge|rouge1|rouge2|rougel|chrf|exact|"
    r"r@[0-9]+"
)


@dataclass(frozen=True)
class Monitor:
    """The metric that decides which weights are best.

    Args:
        metric: its name, such as ``val/accuracy``.
        mode: ``min`` where lower is better, else ``max``.
    """

    metric: str
    mode: str

    @property
    def name(self) -> str:
        """The metric without the split."""
        return self.metric.partition("/")[2]

    def check(self, metrics: Iterable[str]) -> None:
        """Checks that an evaluation gives the metric.

        Raises:
            ConfigError: it does not; lists the metrics that it gives.
        """
        metrics = list(metrics)
        if self.metric not in metrics:
            raise ConfigError(
                f"train.monitor: {self.metric} is to choose the best weights, but the metrics of val are "
                f"{', '.join(metrics) or 'none'}"
            )


def monitor_of(options: TrainConfig, task: Task) -> Monitor:
    """What ``train.monitor`` names, or the task's own metric.

    Raises:
        ConfigError: it is not a metric of ``val``, or its name does not tell which way is better.
    """
    default = Monitor(f"val/{task.monitor}", task.monitor_mode)
    if options.monitor is None:
        return Monitor(default.metric, options.monitor_mode or default.mode)
    if not options.monitor.startswith("val/"):
        raise ConfigError(
            f"train.monitor {options.monitor}: give a metric of val with its split, such as val/loss or "
            f"{default.metric}"
        )
    if options.monitor_mode is not None:
        return Monitor(options.monitor, options.monitor_mode)
    if options.monitor == default.metric:
        return default
    mode = mode_of(options.monitor)
    if mode is None:
        raise ConfigError(
            f"train.monitor {options.monitor}: its name does not tell whether lower or higher is better; set "
            "train.monitor_mode to min or max"
        )
    return Monitor(options.monitor, mode)


def mode_of(metric: str) -> Literal["min", "max"] | None:
    """Which way a metric is better, by the words of its name; ``None`` if they do not tell.

    Args:
        metric: such as ``val/loss``, ``val/macro_f1`` or ``val/R@1``; of several parts, the last one is taken.
    """
    words = re.split(r"[_ -]", metric.rpartition("/")[2].lower())
    lower, higher = (any(re.fullmatch(known, word) for word in words) for known in (_LOWER, _HIGHER))
    if lower == higher:
        return None
    return "min" if lower else "max"


@dataclass
class Patience:
    """Counts evaluations without improvement. It is part of the state of a run.

    Args:
        best: the last metric that counted as an improvement; ``None`` before the first.
        stale: evaluations since.
    """

    best: float | None = None
    stale: int = 0

    def update(self, value: float, mode: str, min_delta: float) -> None:
        """Counts an evaluation.

        Args:
            value: of the monitored metric. One that is not finite is no improvement.
            mode: ``min`` or ``max``.
            min_delta: a smaller change for the better is no improvement.
        """
        gain = math.inf if self.best is None else self.best - value if mode == "min" else value - self.best
        if math.isfinite(value) and gain > min_delta:
            self.best, self.stale = value, 0
        else:
            self.stale += 1

    def exhausted(self, options: EarlyStopping | None) -> bool:
        """Whether training is to stop."""
        return options is not None and self.stale >= options.patience
