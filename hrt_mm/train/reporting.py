"""What a run reports: progress on the terminal, ``metrics.jsonl``, TensorBoard and other loggers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ..data.progress import ProgressBar
from .clock import Clock, Throughput
from .config import TrainConfig
from .loggers import LoggedRun, Loggers
from .metrics_log import MetricsLog, TensorBoard
from .state import TrainState

log = logging.getLogger(__name__)


class Reporter:
    """Reports the metrics of a run. Ranks other than the first only measure their throughput.

    Args:
        folder: the run folder.
        options: of the run.
        monitor: the metric that the terminal shows beside the loss.
        state: of the run, updated from outside.
        config: of the run, as plain values, for loggers that keep it.
        log_lines: lines of ``metrics.jsonl`` to keep: those that the checkpoint being resumed from had written.
        is_main: whether this is the first rank.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainConfig,
        monitor: str,
        state: TrainState,
        *,
        config: Mapping[str, Any],
        log_lines: int,
        is_main: bool,
    ) -> None:
        self.steps = options.steps
        self.monitor = monitor
        self.state = state
        self.is_main = is_main
        self.throughput = Throughput()
        self.progress = ProgressBar(options.steps, f"train/{monitor}", silent=not is_main, cpu=options.clock == "cpu")
        self.metrics_log = MetricsLog(folder / "metrics.jsonl", log_lines) if is_main else None
        self.board = TensorBoard(folder / "tensorboard", state.step) if is_main and options.tensorboard else None
        self.loggers = Loggers(options.loggers, LoggedRun(folder, config, state.step)) if is_main else None
        self._reported = (state.tokens, state.seconds)
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        for opened in (self.loggers, self.board, self.metrics_log):
            if opened is not None:
                self._open_files.callback(opened.close)
        self._open_files.enter_context(self.progress)
        return self

    def __exit__(self, *details: object) -> None:
        self._open_files.close()

    def say(self, text: str) -> None:
        """Prints a line on the first rank."""
        self.progress.say(text)

    def warn(self, message: str, *values: object) -> None:
        """Logs a warning on the first rank."""
        if self.is_main:
            log.warning(message, *values)

    def count_step(self, tokens: int, waited: float) -> None:
        """Counts a training step.

        Args:
            tokens: of the step, over all ranks.
            waited: seconds that this rank waited for its batches.
        """
        self.throughput.add(tokens, waited)
        self.progress.advance(self.state.step)

    def training(self, metrics: Mapping[str, float], clock: Clock) -> None:
        """Reports training metrics, which are means since the last report, and throughput."""
        rates = self.throughput.rates()
        state, (tokens, seconds) = self.state, self._reported
        self._reported = (state.tokens, state.seconds)
        if not self.is_main:
            return
        values = {"step": state.step, "epoch": state.position.epoch, **metrics}
        values |= {"samples": state.samples, "tokens": state.tokens, "seconds": state.seconds, **rates}
        self._write(values)
        if clock.kind == "cpu":
            # The terminal shows rate and time left by the same clock.
            elapsed = state.seconds - seconds
            values["tokens_per_second"] = (state.tokens - tokens) / elapsed if elapsed else 0.0
        self.progress.show(state.step, values, clock.seconds_left(state.seconds, state.step, self.steps))

    def evaluation(self, metrics: Mapping[str, float], *, best: bool) -> None:
        """Reports the metrics of an evaluation on ``val``."""
        if self.is_main:
            self._write({"step": self.state.step, "epoch": self.state.position.epoch, **metrics})
        self.say(
            f"step {self.state.step}/{self.steps}  {metrics_line(metrics, self.monitor)}{'  (best)' if best else ''}"
        )

    def end(self, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of the best weights on ``test``; those on ``val`` were logged before."""
        if self.loggers is not None:
            tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
            self.loggers.write(self.state.step, tested)

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self.metrics_log is not None
        self.metrics_log.write(values)
        scalars = {name: value for name, value in values.items() if name not in ("step", "epoch")}
        for logger in (self.board, self.loggers):
            if logger is not None:
                logger.write(self.state.step, scalars)


SHOWN = 8
"""Maximum number of metrics on a line of the terminal."""
HIDDEN = 4
"""Rank of metrics that are not shown there."""


def metrics_line(metrics: Mapping[str, float], monitor: str) -> str:
    """The main metrics on one line: ``val/loss 0.5123  val/accuracy 0.875``.

    The loss and the monitored metric come first, then those of the whole split, then the monitored metric of its parts,
    such as R@1 of each direction. Parts of the loss and other details are in ``metrics.jsonl``.

    Args:
        metrics: of one split, by names like ``val/accuracy``.
        monitor: the metric that decides which weights are best, without the split.
    """
    ranks = {name: _rank_on_line(name.partition("/")[2], monitor) for name in metrics}
    names = sorted((name for name, rank in ranks.items() if rank < HIDDEN), key=ranks.__getitem__)[:SHOWN]
    rest = len(metrics) - len(names)
    line = "  ".join(f"{name} {metrics[name]:.4g}" for name in names)
    return f"{line}  (and {rest} more)" if rest else line


def _rank_on_line(name: str, monitor: str) -> int:
    if name == "loss":
        return 0
    if name == monitor:
        return 1
    if "/" not in name:
        return 2
    return 3 if name.endswith(f"/{monitor}") and name.count("/") == 1 else HIDDEN
