"""Graceful shutdown: SIGTERM and SIGINT stop a run after a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

from ..core.errors import Stopped


class StopSignals:
    """Records SIGTERM and SIGINT while entered; true once one arrived. A second SIGINT interrupts at once.

    Outside of the main thread, where Python sets no handlers, nothing is recorded.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that arrived, or 0."""
        self.at_once = False
        """Raise ``Stopped`` in the handler, while there is nothing to save."""
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
