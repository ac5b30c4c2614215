"""Training time, and throughput between two lines of the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


class Clock:
    """Seconds of training, over all resumptions of a run.

    Args:
        kind: ``wall``, or ``cpu`` for the processor time of this process in training steps alone.
        time_limit: minutes, or ``None``.
        seconds: trained before this process started.
    """

    def __init__(self, kind: Literal["wall", "cpu"], time_limit: float | None, seconds: float = 0.0) -> None:
        self.kind = kind
        self.time_limit = time_limit
        self._now = time.process_time if kind == "cpu" else time.perf_counter
        self._start = self._now() - seconds

    def seconds(self) -> float:
        """Seconds trained so far."""
        return self._now() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes evaluation and saving from processor time. Wall-clock time includes them."""
        paused_at = self._now()
        yield
        if self.kind == "cpu":
            self._start += self._now() - paused_at

    def fraction_spent(self, seconds: float) -> float:
        """The fraction of the time limit that ``seconds`` are; 0 without a limit."""
        return seconds / (60 * self.time_limit) if self.time_limit is not None else 0.0

    def seconds_left(self, seconds: float, step: int, steps: int) -> float:
        """Estimated time to the last step or the time limit, whichever comes first.

        Args:
            seconds: trained so far.
            step: steps taken.
            steps: steps of the whole run.
        """
        to_last_step = seconds / max(1, step) * max(0, steps - step)
        if self.time_limit is None:
            return to_last_step
        return min(to_last_step, max(0.0, 60 * self.time_limit - seconds))


class Throughput:
    """Tokens per second, and the fraction of time spent waiting for data, between two lines of the log.

    Evaluation and saving are excluded.
    """

    def __init__(self) -> None:
        self._tokens, self._seconds, self._waited, self._since = 0, 0.0, 0.0, time.perf_counter()

    def add(self, tokens: int, waited: float) -> None:
        """Adds a step that waited this many seconds for its data."""
        now = time.perf_counter()
        self._tokens, self._seconds, self._since = self._tokens + tokens, self._seconds + now - self._since, now
        self._waited += waited

    def pause(self) -> None:
        """Excludes the time since the last step."""
        self._since = time.perf_counter()

    def rates(self) -> dict[str, float]:
        """``tokens_per_second`` and ``data_wait`` since the last call."""
        seconds = self._seconds or float("inf")
        rates = {"tokens_per_second": self._tokens / seconds, "data_wait": self._waited / seconds}
        self._tokens, self._seconds, self._waited = 0, 0.0, 0.0
        return rates
