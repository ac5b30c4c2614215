"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self, TypeVar

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class ProgressBar:
    """Shows loss, metric, tokens per second and time left: as a bar on a terminal, and as lines elsewhere.

    Args:
        steps: of the whole run.
        metric: to show beside the loss, by its name in the log.
        silent: show nothing, for ranks other than the first.
        cpu: whether times are processor time, for the label.
    """

    def __init__(self, steps: int, metric: str, *, silent: bool = False, cpu: bool = False) -> None:
        self.unit = " (both by processor time)" if cpu else ""
        self.steps = steps
        self.metric = metric
        self.silent = silent
        self._bar: Progress | None = None
        if not silent and sys.stderr.isatty():
            from rich.console import Console

            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=False)
            self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.silent:
            print(text, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """Advances the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        """Shows the metrics of a logged step.

        Args:
            step: steps taken.
            values: as logged.
            seconds_left: estimated time to the end of the run.
        """
        displayed = {name.rpartition("/")[2]: values[name] for name in ("train/loss", self.metric) if name in values}
        parts = [f"{name} {value:.4g}" for name, value in displayed.items()]
        rate = f"{values['tokens_per_second']:,.0f} tokens/s"
        parts += [f"{rate}  {clock(seconds_left)} left{self.unit}"]
        text = "  ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.say(f"step {step}/{self.steps}  {text}")


def tracked(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Iterates over items with a progress bar, if standard error is a terminal.

    Args:
        items: to iterate over.
        total: number of items.
        description: shown beside the bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=description)


@contextmanager
def counted(total: int, description: str) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar with the time left, if standard error is a terminal.

    Args:
        total: number of items.
        description: shown beside the bar.

    Yields:
        A function that advances the bar by a number of items.
    """
    if not total or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def span(minutes: float) -> str:
    """Minutes in words, with their unit."""
    return f"{60 * minutes:g} s" if minutes < 1 else f"{minutes / 60:g} h" if minutes >= 120 else f"{minutes:g} min"
