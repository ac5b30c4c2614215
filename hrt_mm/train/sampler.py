"""Which samples make which batch: a pure function of (seed, epoch), sharded by rank, resumable anywhere.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from ..core.errors import BadSample, ConfigError
from ..data.capabilities import Sized
from ..data.dataset import Dataset
from ..data.tokenizer import Tokenizer
from .seeding import mix
from .shuffle import Shuffle


@dataclass(frozen=True)
class Position:
    """Where a run stands in its data: batches of this epoch that the trainer has consumed."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Plan:
    """One rank's share of one batch.

    Args:
        at: the batch.
        indices: the samples of this rank.
        following: the position once this batch is consumed.
    """

    at: Position
    indices: tuple[int, ...]
    following: Position


class Sampler:
    """Shuffled batches without end. What does not fill a batch at the end of an epoch is left out of that epoch.

    Args:
        length: samples of the dataset.
        seed: with the epoch, fixes the order.
        batch_size: samples a batch over all ranks, or
        batch_tokens: tokens a batch at most over all ranks; each rank gets its part of them.
        sizes: tokens of each sample, where batches are made by tokens.
        rank: this process.
        world_size: how many there are.

    Raises:
        ConfigError: the dataset cannot fill a batch, or a sample is larger than one.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        sizes: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.budget = batch_tokens // world_size if batch_tokens is not None else None
        self.sizes = sizes
        self.rank = rank
        self.world_size = world_size
        if self.budget is not None:
            assert sizes is not None and len(sizes) == length
            check_sizes(sizes, self.budget, world_size)
        elif batch_size is not None and not world_size <= batch_size <= length:
            raise ConfigError(
                f"train.batch_size {batch_size} does not fit: there are {length} training samples and {world_size} "
                f"ranks; set it between {world_size} and {length}"
            )

    def order(self, epoch: int) -> Shuffle:
        """The samples of an epoch in their order."""
        return Shuffle(self.length, mix(self.seed, "order", epoch))

    def batches(self, epoch: int) -> Sequence[Sequence[int]]:
        """This rank's share of every batch of an epoch. Those of a fixed size are made when they are asked for.

        Raises:
            ConfigError: all samples together do not fill a batch.
        """
        order = self.order(epoch)
        if self.batch_size is not None:
            return _Shares(order, self.batch_size, self.rank, self.world_size)
        assert self.sizes is not None and self.budget is not None
        shares = cut_by_tokens(order[:], self.sizes, self.budget)[:-1]
        whole = len(shares) // self.world_size
        if not whole:
            raise ConfigError(
                f"train.batch_tokens {self.budget * self.world_size} is more than the {sum(self.sizes)} tokens of the "
                "training split can fill; lower it"
            )
        return shares[self.rank : whole * self.world_size : self.world_size]

    def plans(self, start: Position) -> Iterator[Plan]:
        """This rank's shares from a position on, epoch after epoch."""
        epoch, first = start.epoch, start.batch
        while True:
            batches = self.batches(epoch)
            for number in range(first, len(batches)):
                last = number + 1 == len(batches)
                following = Position(epoch + 1, 0) if last else Position(epoch, number + 1)
                yield Plan(Position(epoch, number), tuple(batches[number]), following)
            epoch, first = epoch + 1, 0


class _Shares(Sequence[Sequence[int]]):
    """A rank's share of every whole batch of a fixed size, cut from an order that may be too long to hold."""

    def __init__(self, order: Shuffle, batch_size: int, rank: int, world_size: int) -> None:
        self.order, self.batch_size, self.rank, self.world_size = order, batch_size, rank, world_size

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        wanted = range(len(self))[index]
        if isinstance(wanted, range):
            return [self[number] for number in wanted]
        first = wanted * self.batch_size
        return self.order[first + self.rank : first + self.batch_size : self.world_size]


def check_sizes(sizes: Sequence[int], budget: int, world_size: int = 1) -> None:
    """Refuses a sample that is larger than a rank's part of a batch.

    Raises:
        ConfigError: names the sample and the least value that would do.
    """
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] > budget:
        raise ConfigError(
            f"sample {largest} has {sizes[largest]} tokens, more than the {budget} of a batch on each of {world_size} "
            f"ranks; set train.batch_tokens to {sizes[largest] * world_size} or more, or shorten the samples"
        )


def cut_by_tokens(order: Sequence[int], sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Neighbours in ``order`` put together, up to ``budget`` tokens; the last batch may be less full."""
    batches: list[list[int]] = [[]]
    room = budget
    for index in order:
        if sizes[index] > room and batches[-1]:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= sizes[index]
    return batches


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
    """Batches that hold every sample once, the last one smaller.

    Batches of a number of samples are dealt out to the ranks whole, so that what is compared within a batch does not
    depend on how many ranks there are.

    Args:
        length: samples of the dataset.
        batch_size: samples a batch, or
        budget: tokens a batch of one rank at most.
        sizes: tokens of each sample, where there is a budget.
        rank: this process.
        world_size: how many there are.
        order: the samples in another order than their own.
        limit: batches at most; with a budget, of each rank.
    """
    ordered = order if order is not None else range(length)
    if batch_size is not None:
        ends = length if limit is None else min(length, limit * batch_size)
        firsts = range(0, ends, batch_size)[rank::world_size]
        batches = [list(ordered[first : min(ends, first + batch_size)]) for first in firsts]
    else:
        assert sizes is not None and budget is not None
        mine = list(ordered[rank::world_size])
        batches = cut_by_tokens(mine, sizes, budget)[:limit] if mine else []
    numbers = range(rank, rank + len(batches) * world_size, world_size)
    return [
        Plan(Position(0, number), tuple(batch), Position(0, number + world_size))
        for number, batch in zip(numbers, batches, strict=True)
    ]


def sample_sizes(dataset: Dataset, tokenizer: Tokenizer) -> list[int]:
    """Tokens of every sample, from shapes alone. One whose shape cannot be read counts 1: reading it will name it.

    Raises:
        ConfigError: the dataset or the tokenizer does not know in advance.
    """
    if not isinstance(tokenizer, Sized):
        raise ConfigError(f"{type(tokenizer).__name__} does not know sizes in advance; use train.batch_size")
    sizes = []
    for index in range(len(dataset)):
        try:
            sizes.append(tokenizer.size(dataset.shape(index)))
        except BadSample:
            sizes.append(1)
    return sizes
