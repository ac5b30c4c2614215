"""Loading batches, in this process or ahead of time in worker processes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from ..core.errors import UserError
from ..data.extents import Extents
from ..data.stream import StreamError
from ..tasks.batch import Batch
from .distributed import ProcessGroup
from .sampler import Plan, Position, Sampler
from .samples import BadSamples, BatchMaker, Loaded
from .streamed import StreamSampler
from .workers import Workers, loader


def load(maker: BatchMaker, plans: Iterable[Plan], *, workers: int, pin_memory: bool = False) -> Iterator[Loaded]:
    """Loads the batch of each plan, in order. Leaves the global random generators untouched.

    Args:
        maker: loads the batch of a plan.
        plans: possibly without end.
        workers: processes that load ahead; 0 to load in this process.
        pin_memory: put batches in pinned host memory.
    """
    return Workers(maker, plans, workers, pin_memory) if workers else iter(loader(maker, plans, 0, pin_memory))


@contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Explains the error of PyTorch's loader that a worker died.

    Raises:
        UserError: in place of the loader's ``RuntimeError``.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a loader worker died: {str(error).splitlines()[0]} It was not reading a sample; it may have run out of "
            "memory. train.workers=0 shows what fails, and fewer workers need less memory"
        ) from error


class TrainStream:
    """An endless iterator over training batches.

    ``position`` and the counts refer to the batches handed out, not to those loaded ahead.

    Args:
        maker: loads the batch of a plan.
        sampler: plans the batches.
        start: the first batch.
        bad: counts unusable samples.
        extents: range of input sizes seen in training, by tower (``""`` for a single one); updated with each batch.
        workers: processes that load ahead.
        pin_memory: put batches in pinned host memory.
        ranks: the process group; this process alone if ``None``. A batch that is empty on one rank is skipped on all,
            and what stops one rank stops all.
    """

    def __init__(
        self,
        maker: BatchMaker,
        sampler: Sampler | StreamSampler,
        start: Position,
        bad: BadSamples,
        *,
        extents: dict[str, Extents] | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        ranks: ProcessGroup | None = None,
    ) -> None:
        self.position = start
        self.bad = bad
        self.extents = {} if extents is None else extents
        self._ranks = ranks if ranks is not None else ProcessGroup(torch.device("cpu"))
        self._waited = 0.0
        plans: Iterable[Plan] = sampler.plans(start)
        if workers and (isinstance(sampler, StreamSampler) or sampler.budget is not None):
            # The loader asks for plans between two steps. Those of a stream take reading, and an epoch of batches by
            # tokens is planned as a whole.
            plans = ReadAhead(plans)
        self._plans = plans
        self._loaded = load(maker, plans, workers=workers, pin_memory=pin_memory)

    def close(self) -> None:
        """Shuts the workers down."""
        self._loaded = iter(())
        if isinstance(self._plans, ReadAhead):
            self._plans.close()

    def waited(self) -> float:
        """Seconds spent waiting for batches since the last call. Without workers, this is the time to load them."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __next__(self) -> Batch:
        """The next batch that is not empty.

        Raises:
            StreamError: a stream stopped, or too many of its shards are broken; on all ranks.
            UserError: too many samples are unusable, a worker died, or loading failed; on all ranks.
        """
        while True:
            start = time.perf_counter()
            try:
                loaded = next(self._loaded)
            except Exception:
                # A worker died. The other ranks would wait for this one.
                self._ranks.sum_counts(1, 0, 0, 0)
                raise
            self._waited += time.perf_counter() - start
            error = loaded.error
            try:
                if error is None:
                    self.bad.add(loaded)
            except UserError as refusal:
                error = refusal
            if self._empty_somewhere(loaded, error):
                continue
            assert loaded.batch is not None
            self._update_extents(loaded.batch)
            return loaded.batch

    def _empty_somewhere(self, loaded: Loaded, error: UserError | None) -> bool:
        """Lets all ranks agree on a batch: whether it is empty on one of them.

        Raises:
            UserError: one of them has an error, or too many shards are broken.
        """
        shards = self.bad.new_shards(loaded)
        stream_error = isinstance(error, StreamError)
        errors, stream_errors, empty, broken = self._ranks.sum_counts(
            int(error is not None and not stream_error), int(stream_error), int(loaded.batch is None), len(shards)
        )
        if errors or stream_errors:
            if error is None or (stream_error and errors):
                # Whether to save is decided by the kind of the error, and all ranks must decide alike.
                kind = UserError if errors else StreamError
                raise kind(str(error) if error is not None else "another rank cannot go on, and says why") from error
            raise error
        # Set before the check, so that a batch that is empty on one rank is skipped on resuming, too.
        self.position = loaded.plan.following
        if broken:
            # In another epoch, a shard is read by another rank.
            self.bad.skip(shard for of_rank in self._ranks.gather(shards) for shard in of_rank)
        return empty > 0

    def _update_extents(self, batch: Batch) -> None:
        for name, tower in batch.towers.items():
            if (extents := Extents.of(tower.tokens)) is not None:
                previous = self.extents.get(name)
                self.extents[name] = extents if previous is None else previous.joined(extents)


def checked(loaded: Loaded, bad: BadSamples) -> Loaded:
    """Counts the unusable samples of a loaded batch, and returns it.

    Raises:
        UserError: loading failed, or too many samples are unusable.
    """
    if loaded.error is not None:
        raise loaded.error
    bad.add(loaded)
    bad.skip(bad.new_shards(loaded))
    return loaded


class ReadAhead(Iterator[Plan]):
    """Plans that a thread makes ahead of time, in order.

    Args:
        plans: possibly without end.
        depth: number of plans that wait.
    """

    def __init__(self, plans: Iterable[Plan], depth: int = 2) -> None:
        self._plans = plans
        self._queue: queue.Queue[Plan | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __next__(self) -> Plan:
        if self._thread is None:
            # Only now, as workers are forked before the first plan is asked for.
            self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
            self._thread.start()
        plan = self._queue.get()
        if isinstance(plan, Plan):
            return plan
        # What follows the end is the end again.
        self._queue.put(plan)
        if plan is None:
            raise StopIteration
        raise plan

    def close(self) -> None:
        """Ends the thread after the plan at hand."""
        self._closed.set()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for plan in self._plans:
                if not self._put(plan):
                    return
        except BaseException as error:  # raised where the plans are taken
            end = error
        self._put(end)

    def _put(self, plan: Plan | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(plan, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
