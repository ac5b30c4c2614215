"""Worker processes that load batches, and survive samples that crash a worker.

Media decoders are large C libraries, which a broken file may crash. Each worker therefore records the sample that it
is reading in shared memory. If it dies, that sample is reported and never read again, and new workers load the pending
batches. The batches are the same as if the sample had raised an error.
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
from .samples import Loaded, SampleReader

log = logging.getLogger(__name__)


def loader(maker: SampleReader, plans: Iterable[Plan], workers: int, pin_memory: bool) -> DataLoader[Loaded]:
    """PyTorch's loader over plans. Leaves the global random generators untouched."""
    return DataLoader(
        maker,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_identity,
        worker_init_fn=_ignore_first_signal if workers else None,
        generator=torch.Generator().manual_seed(0),
        pin_memory=pin_memory,
    )


class Workers(Iterator[Loaded]):
    """Loads the batch of each plan, in order, in processes that may crash.

    Args:
        maker: loads the batch of a plan.
        plans: possibly without end.
        count: number of processes.
        pin_memory: put batches in pinned host memory.
    """

    def __init__(self, maker: SampleReader, plans: Iterable[Plan], count: int, pin_memory: bool) -> None:
        self.maker, self.count, self.pin_memory = copy(maker), count, pin_memory
        self.maker.reading = torch.full((count,), -1, dtype=torch.int64).share_memory_()
        self.maker.deadly = set()
        self._plans = iter(plans)
        self._pending: deque[Plan] = deque()
        self._iterator = self._start()

    def __next__(self) -> Loaded:
        """The next batch.

        Raises:
            RuntimeError: a worker died while it was not reading a sample.
        """
        while True:
            try:
                loaded: Loaded = next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                # Batches that a dead worker had sent may be lost too, as they lie in memory that it shared.
                dead = self._dead()
                if not dead:
                    raise
                if not self._restart_after_crash(dead):
                    pids = ", ".join(str(self._iterator._workers[index].pid) for index in dead)
                    raise RuntimeError(f"DataLoader worker (pid {pids}) exited unexpectedly.") from error
            else:
                self._pending.popleft()
                return loaded

    def _start(self) -> Any:
        """Starts workers on the pending plans. A plan is pending until its batch is returned."""
        unfinished, self._pending = self._pending, deque()
        plans = _Recorded(chain(unfinished, self._plans), self._pending)
        handler = signal.getsignal(signal.SIGCHLD)
        iterator = iter(loader(self.maker, plans, self.count, self.pin_memory))
        # PyTorch's handler would raise in the middle of a training step. Without it, the loader detects a dead worker
        # when it next waits for a batch.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return iterator

    def _dead(self) -> list[int]:
        """Indices of the workers that have exited."""
        workers = self._iterator._workers
        for worker in workers:
            # A crashing process still counts as alive for a moment.
            worker.join(0.2)
        return [index for index, worker in enumerate(workers) if not worker.is_alive()]

    def _restart_after_crash(self, dead: list[int]) -> bool:
        """Excludes the samples that dead workers were reading and restarts; False if none was reading one."""
        reading = self.maker.reading
        assert reading is not None
        samples = [int(reading[index]) for index in dead if int(reading[index]) >= 0]
        for sample in samples:
            log.warning(
                "reading %s killed a loader worker; it is skipped from here on", self.maker.dataset.name(sample)
            )
        if samples:
            self.maker.deadly |= set(samples)
            reading.fill_(-1)
            self._iterator._shutdown_workers()
            self._iterator = self._start()
        return bool(samples)


class _Recorded(Iterable[Plan]):
    """Plans that are appended to ``pending`` as the loader takes them."""

    def __init__(self, plans: Iterable[Plan], pending: deque[Plan]) -> None:
        self.plans, self.pending = plans, pending

    def __iter__(self) -> Iterator[Plan]:
        for plan in self.plans:
            self.pending.append(plan)
            yield plan


def _identity(loaded: Any) -> Any:
    return loaded


def _ignore_first_signal(worker: int) -> None:
    """Leaves signals to the process group to the training process, which still needs its workers until it has saved.

    A second SIGTERM ends the worker: the loader sends one to workers that do not exit by themselves.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)
