"""Batches of a stream: rows in order, shuffled in blocks, and resumed exactly.

A block of rows is read, shuffled with a generator seeded by epoch and block, and handed out. A position is the state of
the source before the block and the number of rows that were handed out, so that a resumed run reads the block again and
goes on within it. Blocks of each epoch begin at other rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypedDict

from ..core.errors import ConfigError
from ..data.dataset import Dataset
from ..data.stream import RowSource, StreamedDataset, StreamError
from ..data.tokenizer import Tokenizer
from .config import TrainConfig
from .sampler import Plan, Position, Sampler, sample_sizes
from .seeding import mix
from .shuffle import Shuffle

log = logging.getLogger(__name__)


class BlockState(TypedDict):
    """Where a stream is, as plain data.

    Attributes:
        source: state of the source before the block.
        row: number of the first row of the block.
        block: number of the block in the epoch.
        taken: rows of the block that were handed out.
    """

    source: Any
    row: int
    block: int
    taken: int


class StreamSampler:
    """Batches of a stream, epoch after epoch. The incomplete last batch of an epoch is dropped.

    Every rank reads the whole stream and takes its share of each batch, so batches do not depend on their number.

    Args:
        stream: the samples.
        seed: fixes the order.
        batch_size: samples per batch, over all ranks.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: there are more ranks than samples in a batch.
    """

    def __init__(
        self, stream: StreamedDataset, *, seed: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < world_size:
            raise ConfigError(f"train.batch_size {batch_size} is too small for {world_size} ranks; set it to more")
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.rank, self.world_size = rank, world_size

    def plans(self, start: Position) -> Iterator[Plan]:
        """This rank's batches from a position on, without end. A plan has the error that stopped the stream."""
        at, state = start, start.stream
        while True:
            rows = self._rows(at.epoch, state)
            while True:
                try:
                    batch = list(islice(rows, self.batch_size))
                except StreamError as error:
                    yield Plan(at, (), at, error=error)
                    return
                if len(batch) < self.batch_size:
                    break
                following = Position(at.epoch, at.batch + 1, dict(batch[-1][2]))
                share = batch[self.rank :: self.world_size]
                yield Plan(at, tuple(number for number, *_ in share), following, tuple(row for _, row, _ in share))
                at = following
            if not at.batch:
                fewer = f"fewer than train.batch_size {self.batch_size}; lower it"
                yield Plan(at, (), at, error=ConfigError(f"{self.stream.where} has {len(batch)} samples, {fewer}"))
                return
            at, state = Position(at.epoch + 1), None

    def _rows(self, epoch: int, state: BlockState | None) -> Iterator[tuple[int, Any, BlockState]]:
        """Rows with their numbers, and the position after each."""
        position: BlockState = state or {"source": None, "row": 0, "block": 0, "taken": 0}
        source, first, block, taken = position["source"], position["row"], position["block"], position["taken"]
        rows = self.stream.open(source)
        if source is None and first:
            log.warning(
                "%s cannot be resumed where it was: %d rows are read again to get there",
                self.stream.where,
                first,
            )
            for _ in _read(rows, first, epoch, 0):
                pass
        while True:
            read = list(_read(rows, self._block_size(epoch, block), epoch, first))
            order: Sequence[int] = range(len(read))
            if self.stream.shuffle_buffer > 1:
                order = Shuffle(len(read), mix(self.seed, "block", epoch, block))
            for index in range(taken, len(read)):
                following: BlockState = {"source": source, "row": first, "block": block, "taken": index + 1}
                yield first + order[index], read[order[index]], following
            if not read:
                return
            source, first, block, taken = rows.state(), first + len(read), block + 1, 0

    def _block_size(self, epoch: int, block: int) -> int:
        size = self.stream.shuffle_buffer
        # Were the first block as long as the others, the same rows would be shuffled among each other in every epoch.
        return size if block else 1 + mix(self.seed, "first block", epoch) % size


def _read(rows: RowSource, count: int, epoch: int, before: int) -> Iterator[Any]:
    """Up to ``count`` rows.

    Raises:
        StreamError: the stream stopped; says where.
    """
    number = before
    try:
        for row in islice(rows, count):
            number += 1
            yield row
    except StreamError as error:
        raise StreamError(
            f"{error}; it stopped in epoch {epoch} after {number} rows. Resume (--resume) when it can be read again"
        ) from error


def train_sampler(
    dataset: Dataset, tokenizers: Mapping[str, Tokenizer], options: TrainConfig, *, rank: int = 0, world_size: int = 1
) -> Sampler | StreamSampler:
    """The batches of the training split.

    Raises:
        ConfigError: the dataset cannot fill a batch, or a stream is to be cut by tokens.
    """
    if isinstance(dataset, StreamedDataset):
        if options.batch_size is None:
            raise ConfigError(
                f"{dataset.where} is a stream, whose sizes are not known in advance; use train.batch_size"
            )
        return StreamSampler(
            dataset, seed=options.seed, batch_size=options.batch_size, rank=rank, world_size=world_size
        )
    return Sampler(
        len(dataset),
        seed=options.seed,
        batch_size=options.batch_size,
        batch_tokens=options.batch_tokens,
        sizes=sample_sizes(dataset, tokenizers) if options.batch_tokens is not None else None,
        bucket_window=options.bucket_window,
        rank=rank,
        world_size=world_size,
    )
