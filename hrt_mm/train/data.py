"""Loading batches, in this process or ahead of time in worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..core.errors import UserError
from ..data.extents import Extents
from ..tasks.batch import Batch
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
        all_ranks: whether a condition is true on all ranks. A batch that is empty on one rank is skipped on all.
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
        all_ranks: Callable[[bool], bool] = bool,
    ) -> None:
        self.position = start
        self.bad = bad
        self.extents = {} if extents is None else extents
        self._all_ranks = all_ranks
        self._waited = 0.0
        self._loaded = load(maker, sampler.plans(start), workers=workers, pin_memory=pin_memory)

    def close(self) -> None:
        """Shuts the workers down."""
        self._loaded = iter(())

    def waited(self) -> float:
        """Seconds spent waiting for batches since the last call. Without workers, this is the time to load them."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __next__(self) -> Batch:
        """The next batch that is not empty.

        Raises:
            UserError: too many samples are unusable, a worker died, or loading failed.
        """
        while True:
            start = time.perf_counter()
            loaded = checked(next(self._loaded), self.bad)
            self._waited += time.perf_counter() - start
            # Set before the check, so that a batch that is empty on one rank is skipped on resuming, too.
            self.position = loaded.plan.following
            if self._all_ranks(loaded.batch is not None):
                assert loaded.batch is not None
                self._update_extents(loaded.batch)
                return loaded.batch

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
    return loaded
