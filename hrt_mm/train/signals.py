"""SIGTERM and SIGINT ask a run to stop where it can be resumed."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

from ..core.errors import Stopped


class StopSignals:
    """While entered, remembers a signal instead of dying of it. A second SIGINT interrupts at once.

    Outside the main thread, where handlers cannot be set, it only ever answers no.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0 before one came."""
        self.at_once = False
        """Whether a signal raises ``Stopped`` where it comes, as long as there is nothing to save."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.number > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self.at_once:
            print(f"{Stopped(number)} before the first step", file=sys.stderr)
            raise Stopped(number)
