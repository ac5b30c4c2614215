"""Which samples make up which batch: a pure function of (seed, epoch), sharded by rank, resumable at any batch."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from ..core.errors import BadSample, ConfigError, UserError
from ..data.capabilities import Sized
from ..data.dataset import Dataset
from ..data.tokenizer import Tokenizer, only_tokenizer
from .seeding import mix
from .shuffle import Shuffle


@dataclass(frozen=True)
class Position:
    """The progress of a run through its data: the epoch, and the batches of it that were trained on.

    Args:
        epoch: from 0.
        batch: within the epoch.
        stream: where a stream is, as plain data; see :class:`~.streamed.BlockState` and
            :class:`~.streamed.ReaderState`.
    """

    epoch: int = 0
    batch: int = 0
    stream: Any = None


@dataclass(frozen=True)
class Plan:
    """The samples of one batch on one rank.

    Args:
        at: the batch.
        indices: samples of this rank.
        following: the position after this batch.
        rows: of a stream, what the samples are made of.
        epochs: of each sample, where samples of several epochs meet in a batch; that of ``at`` otherwise.
        skipped: broken shards that were met while the rows were read.
        error: why there is no batch.
    """

    at: Position
    indices: tuple[int, ...]
    following: Position
    rows: tuple[Any, ...] = ()
    epochs: tuple[int, ...] = ()
    skipped: tuple[BadSample, ...] = ()
    error: UserError | None = None


class Sampler:
    """Shuffled batches, epoch after epoch. The incomplete last batch of an epoch is dropped.

    Args:
        length: samples of the dataset.
        seed: fixes the order of each epoch.
        batch_size: samples per batch, over all ranks; or
        batch_tokens: maximum tokens per batch, over all ranks.
        sizes: tokens of each sample, with ``batch_tokens``.
        bucket_window: samples that are sorted by length among each other, with ``batch_tokens``; ``None`` for none.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: the dataset cannot fill a batch, or a sample does not fit into the share of one rank.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        sizes: Sequence[int] | None = None,
        bucket_window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.budget = batch_tokens
        self.sizes = sizes
        self.bucket_window = bucket_window
        self.rank = rank
        self.world_size = world_size
        if self.budget is not None:
            assert sizes is not None and len(sizes) == length
            # A batch whose samples each fit into the share of one rank has a sample for every rank.
            check_sizes(sizes, self.budget // world_size, world_size)
            if sum(sizes) <= self.budget:
                # Before the run folder is made: there may be no batch at all.
                self.batches(0)
        elif batch_size is not None and not world_size <= batch_size <= length:
            raise ConfigError(
                f"train.batch_size {batch_size} does not fit: there are {length} training samples and {world_size} "
                f"ranks; set it between {world_size} and {length}"
            )

    def order(self, epoch: int) -> Shuffle:
        """The order of the samples in an epoch."""
        return Shuffle(self.length, mix(self.seed, "order", epoch))

    def batches(self, epoch: int) -> Sequence[Sequence[int]]:
        """This rank's samples of every batch of an epoch.

        Raises:
            ConfigError: all samples together do not fill a batch.
        """
        order = self.order(epoch)
        if self.batch_size is not None:
            return _FixedSizeBatches(order, self.batch_size, self.rank, self.world_size)
        assert self.sizes is not None and self.budget is not None
        shuffled: Sequence[int] = order[:]
        if self.bucket_window is not None:
            shuffled = sorted_in_windows(shuffled, self.sizes, self.bucket_window)
        # The last batch is cut off by the end of the data, not by the budget.
        batches = cut_by_tokens(shuffled, self.sizes, self.budget)[:-1]
        if not batches:
            raise ConfigError(
                f"train.batch_tokens {self.budget} is more than the {sum(self.sizes)} tokens of the training split can "
                "fill; lower it"
            )
        if self.bucket_window is not None:
            batches = [batches[number] for number in Shuffle(len(batches), mix(self.seed, "buckets", epoch))]
        if self.world_size == 1:
            return batches
        return [shares(batch, self.sizes, self.world_size)[self.rank] for batch in batches]

    def plans(self, start: Position) -> Iterator[Plan]:
        """This rank's batches from a position on, without end."""
        epoch, first = start.epoch, start.batch
        while True:
            batches = self.batches(epoch)
            for number in range(first, len(batches)):
                last = number + 1 == len(batches)
                following = Position(epoch + 1, 0) if last else Position(epoch, number + 1)
                yield Plan(Position(epoch, number), tuple(batches[number]), following)
            epoch, first = epoch + 1, 0


class _FixedSizeBatches(Sequence[Sequence[int]]):
    """A rank's samples of every complete batch. Computed on access, as the order may be too long to hold in memory."""

    def __init__(self, order: Shuffle, batch_size: int, rank: int, world_size: int) -> None:
        self.order, self.batch_size, self.rank, self.world_size = order, batch_size, rank, world_size

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        batch = range(len(self))[index]
        if isinstance(batch, range):
            return [self[number] for number in batch]
        first = batch * self.batch_size
        # Ranks share out the samples of one batch, which is the same however many ranks there are.
        return self.order[first + self.rank : first + self.batch_size : self.world_size]


def check_sizes(sizes: Sequence[int], budget: int, world_size: int = 1) -> None:
    """Checks that every sample fits into a batch of one rank.

    Raises:
        ConfigError: names the largest sample, and the ``train.batch_tokens`` that it needs.
    """
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] > budget:
        raise ConfigError(
            f"sample {largest} has {sizes[largest]} tokens, more than the {budget} of a batch on each of {world_size} "
            f"ranks; set train.batch_tokens to {sizes[largest] * world_size} or more, or shorten the samples"
        )


def cut_by_tokens(order: Sequence[int], sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Consecutive samples of ``order`` in batches of up to ``budget`` tokens. The last one may be incomplete."""
    batches: list[list[int]] = [[]]
    remaining = budget
    for index in order:
        if sizes[index] > remaining and batches[-1]:
            batches.append([])
            remaining = budget
        batches[-1].append(index)
        remaining -= sizes[index]
    return batches


def sorted_in_windows(order: Sequence[int], sizes: Sequence[int], window: int) -> list[int]:
    """``order`` with each window of consecutive samples sorted by size, alternately up and down."""
    ordered: list[int] = []
    for number, first in enumerate(range(0, len(order), window)):
        # Neighbouring windows meet at their longest or at their shortest, so a batch across both is uniform too.
        ordered += sorted(order[first : first + window], key=sizes.__getitem__, reverse=number % 2 == 1)
    return ordered


def shares(batch: Sequence[int], sizes: Sequence[int], count: int) -> list[list[int]]:
    """Splits a batch into shares of about equal size: the longest samples first, each to the smallest share (LPT).

    A share is at most its part of the batch, plus one sample (Graham 1969, "Bounds on Multiprocessing Timing
    Anomalies"). No share is empty if there are enough samples.

    Args:
        batch: indices of samples.
        sizes: of all samples.
        count: number of shares.
    """
    smallest = [(0, 0, share) for share in range(count)]
    split: list[list[int]] = [[] for _ in range(count)]
    for position in sorted(range(len(batch)), key=lambda position: -sizes[batch[position]]):
        size, samples, share = smallest[0]
        heapq.heapreplace(smallest, (size + sizes[batch[position]], samples + 1, share))
        split[share].append(position)
    return [[batch[position] for position in sorted(positions)] for positions in split]


def evaluation_plans(
    length: int,
    *,
    batch_size: int | None,
    budget: int | None,
    sizes: Sequence[int] | None,
    rank: int = 0,
    world_size: int = 1,
    order: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[Plan]:
    """Batches that contain every sample once. The last one may be smaller.

    With ``batch_size``, a batch goes to one rank as a whole, so that metrics which compare the samples of a batch do
    not depend on the number of ranks.

    Args:
        length: samples of the dataset.
        batch_size: samples per batch; or
        budget: maximum tokens per batch of one rank.
        sizes: tokens of each sample, with ``budget``.
        rank: of this process.
        world_size: number of processes.
        order: of the samples; that of the dataset if absent.
        limit: maximum number of batches; with ``budget``, per rank.
    """
    ordered = order if order is not None else range(length)
    if batch_size is not None:
        ends = length if limit is None else min(length, limit * batch_size)
        firsts = range(0, ends, batch_size)[rank::world_size]
        batches = [list(ordered[first : min(ends, first + batch_size)]) for first in firsts]
    else:
        assert sizes is not None and budget is not None
        indices = list(ordered[rank::world_size])
        batches = cut_by_tokens(indices, sizes, budget)[:limit] if indices else []
    # Numbered over all ranks, since the random numbers of a batch are drawn by its number.
    numbers = range(rank, rank + len(batches) * world_size, world_size)
    return [
        Plan(Position(0, number), tuple(batch), Position(0, number + world_size))
        for number, batch in zip(numbers, batches, strict=True)
    ]


def sample_sizes(dataset: Dataset, tokenizers: Mapping[str, Tokenizer]) -> list[int]:
    """Tokens of every sample, computed from shapes alone.

    A sample whose shape cannot be read counts as 1 token: loading it will report it.

    Raises:
        ConfigError: the dataset or the tokenizer cannot tell sizes in advance.
    """
    tokenizer = sized_tokenizer(tokenizers)
    sizes = []
    for index in range(len(dataset)):
        try:
            sizes.append(tokenizer.size(dataset.shape(index)))
        except BadSample:
            sizes.append(1)
    return sizes


def sized_tokenizer(tokenizers: Mapping[str, Tokenizer]) -> Sized:
    """The only tokenizer, which knows sizes in advance.

    Raises:
        ConfigError: there are several, or it does not.
    """
    if len(tokenizers) > 1:
        raise ConfigError("train.batch_tokens is for one tower; with towers use train.batch_size")
    tokenizer = only_tokenizer(tokenizers)
    if not isinstance(tokenizer, Sized):
        raise ConfigError(f"{type(tokenizer).__name__} does not know sizes in advance; use train.batch_size")
    return tokenizer
