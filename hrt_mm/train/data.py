"""Loaders: plans read ahead by worker processes, and batches handed out in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..core.errors import UserError
from ..data.extents import Extents
from ..tasks.base import Batch
from ..tasks.joint import JointBatch
from .sampler import Plan, Position, Sampler
from .samples import BadSamples, BatchMaker, Loaded
from .workers import Workers, loader


def load(maker: BatchMaker, plans: Iterable[Plan], *, workers: int, pin_memory: bool = False) -> Iterator[Loaded]:
    """Plans made into batches, in order. Draws nothing from the global generators.

    Args:
        maker: makes a batch of a plan.
        plans: may be endless.
        workers: processes that work ahead; 0 for none.
        pin_memory: put batches in pinned host memory.
    """
    return Workers(maker, plans, workers, pin_memory) if workers else iter(loader(maker, plans, 0, pin_memory))


@contextmanager
def worker_deaths_named() -> Iterator[None]:
    """Says what it means that a loader's worker died.

    Raises:
        UserError: in place of the loader's error, which names the worker.
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
    """Training batches without end, from a position on. Counts what the trainer consumed, not what was read ahead.

    Args:
        maker: makes a batch of a plan.
        sampler: plans the batches.
        start: the first batch.
        bad: counts samples that cannot be used.
        extents: by tower, ``""`` for the only one, the sizes of inputs that training saw; grows with each batch.
        workers: processes that work ahead.
        pin_memory: put batches in pinned host memory.
        all_ranks: whether something holds on all ranks; a batch that is empty on one is skipped on all.
    """

    def __init__(
        self,
        maker: BatchMaker,
        sampler: Sampler,
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
        """Seconds that batches were waited for since it was last asked; with no workers, those of loading them."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __next__(self) -> Batch:
        """The next batch that is not empty.

        Raises:
            UserError: too many samples are bad, a worker died, or a mistake that the loading met.
        """
        while True:
            began = time.perf_counter()
            loaded = checked(next(self._loaded), self.bad)
            self._waited += time.perf_counter() - began
            self.position = loaded.plan.following
            if self._all_ranks(loaded.batch is not None):
                assert loaded.batch is not None
                self._measure(loaded.batch)
                return loaded.batch

    def _measure(self, batch: Batch) -> None:
        parts = {name: part.tokens for name, part in batch.parts.items()} if isinstance(batch, JointBatch) else {}
        for name, tokens in (parts or {"": batch.tokens}).items():
            if (extents := Extents.of(tokens)) is not None:
                known = self.extents.get(name)
                self.extents[name] = extents if known is None else known.joined(extents)


def checked(loaded: Loaded, bad: BadSamples) -> Loaded:
    """The same, once its bad samples are counted.

    Raises:
        UserError: what the loading met, or too many bad samples.
    """
    if loaded.error is not None:
        raise loaded.error
    bad.add(loaded)
    return loaded
