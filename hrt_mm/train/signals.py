"""Graceful shutdown: signals stop a run after a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

from ..core.errors import Stopped

log = logging.getLogger(__name__)

NUMBERS = [signal.SIGTERM, signal.SIGINT]
"""Signals that stop a run."""
if sys.platform != "win32":
    # SLURM sends it some time before the end of a job: `#SBATCH --signal=USR1@120`.
    NUMBERS.append(signal.SIGUSR1)


class StopSignals:
    """Records SIGTERM, SIGINT and SIGUSR1 while entered; true once one arrived. A second SIGINT interrupts at once.

    A launcher that ends without stopping its ranks counts as SIGTERM. Outside of the main thread, where Python sets no
    handlers, no signal is recorded.

    Args:
        launched: the parent is a launcher such as torchrun, without which this process should not go on.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.at_once = False
        """Raise ``Stopped`` in the handler, while there is nothing to save."""
        self._number = 0
        self._launcher = os.getppid() if launched else 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.number > 0

    @property
    def number(self) -> int:
        """Of the signal that arrived, or 0."""
        if self._launcher and not self._number and os.getppid() != self._launcher:
            log.warning("the launcher, process %d, has ended; the run stops", self._launcher)
            self._number = signal.SIGTERM
        return self._number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._number and number == signal.SIGINT:
            raise KeyboardInterrupt
        # SLURM sends SIGTERM some time after SIGUSR1, which asks for more: that the job is queued again.
        self._number = self._number or number
        if self.at_once:
            print(f"{Stopped(number)} before the first step", file=sys.stderr)
            raise Stopped(number)
