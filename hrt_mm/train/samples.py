"""From a plan to a batch, in the training process or in a loader's worker; samples that cannot be used are left out."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import get_worker_info

from ..core.errors import BadSample, UserError
from ..data.dataset import Dataset
from ..data.sample import Sample
from ..data.stream import StreamedDataset, StreamError
from ..tasks.base import Collator
from ..tasks.batch import Batch
from .negatives import Negatives
from .sampler import Plan
from .seeding import forked, mix, seed_host

log = logging.getLogger(__name__)

FEWEST = 16
"""Bad samples below this number stop no run, unless all samples have been seen: a share of few says little."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What became of a plan.

    Args:
        plan: the samples that were asked for.
        batch: the usable ones, or ``None`` where there is none.
        bad: the others.
        error: a mistake of the user's that is not one sample's, to be raised in the training process.
        samples: index and sample of each row of the batch, for readers that return them.
    """

    plan: Plan
    batch: Batch | None
    bad: tuple[BadSample, ...] = ()
    error: UserError | None = None
    samples: tuple[tuple[int, Sample], ...] = ()

    def pin_memory(self) -> Loaded:
        """The same with the batch in pinned host memory."""
        return replace(self, batch=self.batch.pin_memory()) if self.batch is not None else self


class SampleReader(TorchDataset[Loaded], ABC):
    """Reads the samples of a plan, in this process or in a worker that may die.

    Args:
        dataset: the samples.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        # For workers that may die: which sample each one reads, and those that must not be read again.
        self.reading: Tensor | None = None
        self.deadly: set[int] = set()

    def __getitem__(self, plan: Plan) -> Loaded:
        """Leaves the global random generators untouched."""
        with forked(host_only=True):
            try:
                return Loaded(plan, None, error=plan.error) if plan.error is not None else self._load(plan)
            except UserError as error:
                # Returned, as an exception that leaves a worker arrives as the text of its traceback.
                return Loaded(plan, None, error=error)

    @abstractmethod
    def _load(self, plan: Plan) -> Loaded:
        """What becomes of a plan."""

    def _read(self, index: int, *row: Any) -> Sample:
        """The sample of an index, or of a row of a stream."""
        if index in self.deadly:
            raise BadSample(self.dataset.name(index), "reading it killed a loader worker; mend or remove it")
        worker = get_worker_info()
        if self.reading is None or worker is None:
            return self._sample(index, *row)
        self.reading[worker.id] = index
        try:
            return self._sample(index, *row)
        finally:
            self.reading[worker.id] = -1

    def _sample(self, index: int, *row: Any) -> Sample:
        return self.dataset.read(index, *row) if isinstance(self.dataset, StreamedDataset) else self.dataset[index]


class BatchMaker(SampleReader):
    """Reads, augments, tokenizes and labels the samples of a plan, with generators that are seeded for each sample.

    Args:
        dataset: the samples.
        collator: makes the batches.
        seed: with epoch and index, fixes a sample's augmentation.

    Attributes:
        negatives: hard negatives that come into the batches of their samples.
    """

    def __init__(self, dataset: Dataset, collator: Collator, seed: int) -> None:
        super().__init__(dataset)
        self.collator = collator
        self.seed = seed
        self.negatives: Negatives | None = None

    def _load(self, plan: Plan) -> Loaded:
        read: list[tuple[int, Sample]] = []
        bad: list[BadSample] = []
        added = self.negatives.beside(plan.indices, plan.at.epoch) if self.negatives is not None else ()
        # A sample that ends an epoch of a stream may be in one batch with itself in the next.
        items: list[tuple[int, int, tuple[Any, ...]]] = [
            (index, plan.epochs[number] if plan.epochs else plan.at.epoch, plan.rows[number : number + 1])
            for number, index in enumerate(plan.indices)
        ]
        items += [(index, plan.at.epoch, ()) for index in added]
        # The rows of a stream are not sent back from workers.
        plan = replace(plan, rows=())
        for index, epoch, row in items:
            # Augmentation then depends neither on the worker nor on what it read before.
            seed_host(mix(self.seed, "sample", epoch, index))
            try:
                read.append((index, self._read(index, *row)))
            except BadSample as error:
                bad.append(error)
        try:
            batch = self._pack(plan, read) if read else None
        except BadSample:
            # The tokenizer stops at the first bad sample; packed one by one, each shows whether it is usable.
            read, unusable = self._sift(plan, read)
            bad += unusable
            batch = self._pack(plan, read) if read else None
        return Loaded(plan, batch, tuple(bad), samples=self._returned(read))

    def _returned(self, samples: list[tuple[int, Sample]]) -> tuple[tuple[int, Sample], ...]:
        """What is returned beside the batch of its samples; nothing by default."""
        return ()

    def _pack(self, plan: Plan, samples: list[tuple[int, Sample]]) -> Batch:
        seed_host(mix(self.seed, "batch", plan.at.epoch, plan.at.batch))
        return self.collator([sample for _, sample in samples])

    def _sift(self, plan: Plan, samples: list[tuple[int, Sample]]) -> tuple[list[tuple[int, Sample]], list[BadSample]]:
        """Packs the samples one by one to find those that cannot be."""
        good: list[tuple[int, Sample]] = []
        bad: list[BadSample] = []
        for index, sample in samples:
            try:
                self._pack(plan, [(index, sample)])
                good.append((index, sample))
            except BadSample as error:
                bad.append(BadSample(sample.name or error.name, error.reason))
        return good, bad


class BadCounts(TypedDict):
    """Samples asked for, those among them that could not be used, and their names with the reasons.

    ``shards`` are the names of broken shards with the reasons. Their lost samples are in no count.
    """

    seen: int
    bad: int
    names: dict[str, str]
    shards: dict[str, str]


class BadSamples:
    """Counts and names the samples of a split that could not be used.

    Args:
        split: for messages.
        length: samples of the split; larger than any for a stream.
        max_share: the run stops above it, of samples and of shards.
        shards: of a stream.
    """

    def __init__(self, split: str, length: int, max_share: float, shards: int = 0) -> None:
        self.split = split
        self.length = length
        self.max_share = max_share
        self.seen = 0
        self.count = 0
        self.names: dict[str, str] = {}
        self.shards: dict[str, str] = {}
        self.num_shards = shards

    def new_shards(self, loaded: Loaded) -> list[tuple[str, str]]:
        """The broken shards of a plan that were not met before, with the reasons. Logs them."""
        new = [(shard.name, shard.reason) for shard in loaded.plan.skipped if shard.name not in self.shards]
        for name, reason in new:
            log.warning("skipping a broken shard of %s: %s: %s", self.split, name, reason)
        return new

    def skip(self, shards: Iterable[tuple[str, str]]) -> None:
        """Counts broken shards, each once.

        Raises:
            StreamError: too many shards are broken; lists them.
        """
        broken = dict(shards) | self.shards
        if len(broken) > self.max_share * self.num_shards:
            # The new ones are not counted, as a resumed run reads them again.
            raise StreamError(
                f"{len(broken)} of the {self.num_shards} shards of {self.split} cannot be read, more than "
                f"train.max_bad_share {self.max_share:g} allows; mend them and resume (--resume), or raise it:\n"
                f"{_listed(broken)}"
            )
        self.shards = broken

    def add(self, loaded: Loaded) -> None:
        """Takes in a plan that was consumed.

        Raises:
            UserError: too many were bad; lists them.
        """
        self.seen += len(loaded.plan.indices)
        self.count += len(loaded.bad)
        for sample in loaded.bad:
            if sample.name not in self.names:
                log.warning("skipping a bad sample of %s: %s", self.split, sample)
                self.names[sample.name] = sample.reason
        fewest = FEWEST if self.max_share and self.seen < self.length else 1
        if self.count >= fewest and self.count > self.max_share * self.seen:
            raise UserError(self._too_many())

    def _too_many(self) -> str:
        different = len(self.names)
        if self.seen > self.length:
            # Every epoch reads a bad sample again.
            what = f"{different} of the {self.length} samples of {self.split} cannot be used"
            what += f" ({self.count} of {self.seen} reads so far)"
        else:
            what = f"{self.count} of the {self.seen} samples of {self.split} read so far cannot be used"
            what += (
                f" ({different} different {'file' if different == 1 else 'files'})" if different < self.count else ""
            )
        return (
            f"{what}, more than "
            f"train.max_bad_share {self.max_share:g} allows; mend or remove them, or raise it:\n{_listed(self.names)}"
        )

    def counts(self) -> BadCounts:
        """What a checkpoint and the summary hold."""
        return {"seen": self.seen, "bad": self.count, "names": dict(self.names), "shards": dict(self.shards)}

    def restore(self, counts: BadCounts) -> None:
        """Goes on from what a checkpoint held."""
        self.seen, self.count, self.names = counts["seen"], counts["bad"], dict(counts["names"])
        # Checkpoints of earlier versions have no shards.
        self.shards = dict(counts.get("shards", {}))


def _listed(reasons: Mapping[str, str]) -> str:
    listed = "\n".join(f"  {name}: {reason}" for name, reason in list(reasons.items())[:20])
    return f"{listed}\n  and {len(reasons) - 20} more" if len(reasons) > 20 else listed


def together(parts: Sequence[BadCounts]) -> BadCounts:
    """Counts of several ranks in one."""
    names = {name: reason for part in parts for name, reason in part["names"].items()}
    shards = {name: reason for part in parts for name, reason in part["shards"].items()}
    seen, bad = sum(part["seen"] for part in parts), sum(part["bad"] for part in parts)
    return {"seen": seen, "bad": bad, "names": names, "shards": shards}
