"""What a run says while it goes: a bar on a terminal, plain lines elsewhere, both on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar

from rich.progress import BarColumn, Progress, TextColumn

T = TypeVar("T")


class ProgressBar:
    """A bar with loss, metric, tokens a second and time left; lines of the same where there is no terminal.

    Args:
        steps: of the whole run.
        metric: the one to show beside the loss, by its name in the log.
        silent: show nothing at all, as ranks other than the first.
        cpu: whether seconds are processor time, which is then said.
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
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self.silent:
            print(text, file=sys.stderr, flush=True)

    def moved(self, step: int) -> None:
        """A step was taken."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        """The numbers of a logged step.

        Args:
            step: steps taken.
            values: as they went to the log.
            seconds_left: of the run.
        """
        shown = {name.rpartition("/")[2]: values[name] for name in ("train/loss", self.metric) if name in values}
        parts = [f"{name} {value:.4g}" for name, value in shown.items()]
        rate = f"{values['tokens_per_second']:,.0f} tokens/s"
        parts += [f"{rate}  {clock(seconds_left)} left{self.unit}"]
        text = "  ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.say(f"step {step}/{self.steps}  {text}")


def tracked(items: Iterable[T], total: int, doing: str) -> Iterator[T]:
    """Items, with a bar on a terminal that says how many of them are done; nothing is shown elsewhere.

    Args:
        items: made one after another.
        total: how many there will be.
        doing: what is done, for the bar.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=doing)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def span(minutes: float) -> str:
    """Minutes in words, with their unit."""
    return f"{60 * minutes:g} s" if minutes < 1 else f"{minutes / 60:g} h" if minutes >= 120 else f"{minutes:g} min"
