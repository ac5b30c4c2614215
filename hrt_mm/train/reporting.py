"""What a run reports: progress on the terminal, ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..data.progress import ProgressBar, span
from .build import carried_groups
from .clock import Clock, Throughput
from .config import TrainConfig
from .metrics_log import MetricsLog, TensorBoard
from .precision import emulates_bf16
from .schedule import schedule_warnings
from .splits import start_warnings
from .state import TrainState
from .summary import parameter_count

if TYPE_CHECKING:
    from .run import Run

log = logging.getLogger(__name__)


class Reporter:
    """Reports the metrics of a run. Ranks other than the first only measure their throughput.

    Args:
        folder: the run folder.
        options: of the run.
        monitor: the metric that the terminal shows beside the loss.
        state: of the run, updated from outside.
        log_lines: lines of ``metrics.jsonl`` to keep: those that the checkpoint being resumed from had written.
        is_main: whether this is the first rank.
    """

    def __init__(
        self, folder: Path, options: TrainConfig, monitor: str, state: TrainState, *, log_lines: int, is_main: bool
    ) -> None:
        self.steps = options.steps
        self.state = state
        self.is_main = is_main
        self.throughput = Throughput()
        self.progress = ProgressBar(options.steps, f"train/{monitor}", silent=not is_main, cpu=options.clock == "cpu")
        self.metrics_log = MetricsLog(folder / "metrics.jsonl", log_lines) if is_main else None
        self.board = TensorBoard(folder / "tensorboard", state.step) if is_main and options.tensorboard else None
        self._reported = (state.tokens, state.seconds)
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        for opened in (self.board, self.metrics_log):
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
        self.say(f"step {self.state.step}/{self.steps}  {metrics_line(metrics)}{'  (best)' if best else ''}")

    def _write(self, values: Mapping[str, Any]) -> None:
        assert self.metrics_log is not None
        self.metrics_log.write(values)
        if self.board is not None:
            scalars = {name: value for name, value in values.items() if name not in ("step", "epoch")}
            self.board.write(self.state.step, scalars)


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Metrics on one line: ``val/loss 0.5123  val/accuracy 0.875``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def announce(run: Run) -> None:
    """Reports at the start of training what is trained, on what, and what looks wrong."""
    config, options, ranks, reporter = run.config, run.options, run.ranks, run.reporter
    samples = ", ".join(f"{len(dataset):,} {split}" for split, dataset in run.data.splits.items())
    rank_count = f", {ranks.world_size} ranks" if ranks.world_size > 1 else ""
    size = f"{parameter_count(run.task):,} parameters"
    reporter.say(f"{run.folder}: {size}, {ranks.device.type} in {run.precision}{rank_count}, {samples} samples")
    if run.initialized_from:
        reporter.say(f"train.init_from: {run.initialized_from}")
    if run.state.step:
        reporter.say(f"resumes from step {run.state.step}")
    for warning in start_warnings(config.data) if ranks.is_main else ():
        reporter.warn("%s", warning)
    if options.time_limit is not None:
        clock = "processor time of this process" if options.clock == "cpu" else "wall clock"
        reporter.say(f"train.time_limit {span(options.time_limit)} ({clock}), or {options.steps:,} steps")
    for warning in schedule_warnings(config.optim, options.steps):
        reporter.warn("%s", warning)
    for tower, boundaries in carried_groups(config, run.data.tokenizers).items():
        of_tower = f" of {tower}" if tower else ""
        reporter.say(
            f"groups{of_tower} by {', '.join(boundaries)} come with the data: the model reads samples that have them, "
            "and no bare files"
        )
    if run.precision == "bf16" and emulates_bf16(ranks.device):
        reporter.warn(
            "train.precision bf16: this processor has no AVX512-BF16 and computes it slowly; use auto or fp32"
        )


def report_time_limit(run: Run) -> None:
    """Reports that the time limit ended the run before its last step, and warns where that was within the warm-up."""
    step, steps, warmup_steps = run.state.step, run.options.steps, run.config.optim.warmup_steps
    if step >= steps:
        return
    run.reporter.say(f"train.time_limit reached at step {step} of {steps}")
    if step < warmup_steps:
        run.reporter.warn(
            "the time limit ended the run at step %d, within the %d steps of optim.warmup_steps: lr was never "
            "reached; set fewer, or a longer train.time_limit",
            step, warmup_steps,
        )  # fmt: skip
