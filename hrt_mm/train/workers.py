"""Worker processes that load batches, and go on where reading a sample kills one of them.

Decoders are large programs in C, and a broken file may crash one. A worker notes the sample that it reads, in memory
that it shares with the training process. Where it dies, that sample is named and never read again, and new workers do
what was left undone. Batches are the same as if the sample had been bad.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import chain
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from .sampler import Plan
from .samples import BatchMaker, Loaded

log = logging.getLogger(__name__)


def loader(maker: BatchMaker, plans: Iterable[Plan], workers: int, pin_memory: bool) -> DataLoader[Loaded]:
    """PyTorch's loader over plans. Draws nothing from the global generators."""
    return DataLoader(
        maker,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_outlive_signals if workers else None,
        generator=torch.Generator().manual_seed(0),
        pin_memory=pin_memory,
    )


class Workers(Iterator[Loaded]):
    """Plans made into batches in order by processes that may die.

    Args:
        maker: makes a batch of a plan.
        plans: may be endless.
        count: processes.
        pin_memory: put batches in pinned host memory.
    """

    def __init__(self, maker: BatchMaker, plans: Iterable[Plan], count: int, pin_memory: bool) -> None:
        self.maker, self.count, self.pin_memory = copy(maker), count, pin_memory
        self.maker.reading = torch.full((count,), -1, dtype=torch.int64).share_memory_()
        self.maker.deadly = set()
        self._plans = iter(plans)
        self._ahead: deque[Plan] = deque()
        self._iterator = self._start()

    def __next__(self) -> Loaded:
        """The next batch.

        Raises:
            RuntimeError: a worker died, and not while it read a sample.
        """
        while True:
            try:
                loaded: Loaded = next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                # What a dead worker had sent may be lost as well: memory that is shared goes with it.
                dead = self._dead()
                if not dead:
                    raise
                if not self._restart_after_crash(dead):
                    pids = ", ".join(str(self._iterator._workers[place].pid) for place in dead)
                    raise RuntimeError(f"DataLoader worker (pid {pids}) exited unexpectedly.") from error
            else:
                self._ahead.popleft()
                return loaded

    def _start(self) -> Any:
        """Workers for what is left to do. Plans that are handed out are remembered until their batch comes back."""
        left, self._ahead = self._ahead, deque()
        plans = _Noted(chain(left, self._plans), self._ahead)
        before = signal.getsignal(signal.SIGCHLD)
        iterator = iter(loader(self.maker, plans, self.count, self.pin_memory))
        # PyTorch would raise at once, in the midst of a training step. Without that it finds a death as it waits.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return iterator

    def _dead(self) -> list[int]:
        """Workers that are no more."""
        workers = self._iterator._workers
        for worker in workers:
            # One that is dying may still seem alive.
            worker.join(0.2)
        return [place for place, worker in enumerate(workers) if not worker.is_alive()]

    def _restart_after_crash(self, dead: list[int]) -> bool:
        """Names the samples that dead workers were reading, and starts anew; whether there was one."""
        reading = self.maker.reading
        assert reading is not None
        found = [int(reading[place]) for place in dead if int(reading[place]) >= 0]
        for index in found:
            log.warning(
                "reading %s killed a loader worker; it is left out from here on", self.maker.dataset.name(index)
            )
        if found:
            self.maker.deadly |= set(found)
            reading.fill_(-1)
            self._iterator._shutdown_workers()
            self._iterator = self._start()
        return bool(found)


class _Noted(Iterable[Plan]):
    """Plans that note themselves as they are taken."""

    def __init__(self, plans: Iterable[Plan], taken: deque[Plan]) -> None:
        self.plans, self.taken = plans, taken

    def __iter__(self) -> Iterator[Plan]:
        for plan in self.plans:
            self.taken.append(plan)
            yield plan


def _as_is(loaded: Any) -> Any:
    return loaded


def _outlive_signals(worker: int) -> None:
    """A signal to the whole process group is the trainer's to answer: it still needs the worker to save in peace.

    A second SIGTERM ends the worker, as the loader sends one to a worker that does not come home.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)
