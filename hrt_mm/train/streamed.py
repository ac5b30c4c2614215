"""Batches of a stream: read in order or by several readers, shuffled in blocks, and resumed exactly.

A block of rows is read, shuffled with a generator seeded by epoch and block, and handed out. A position is the state of
the source before the block and the number of rows that were handed out, so that a resumed run reads the block again and
goes on within it. Blocks of each epoch begin at other rows.

A stream of several shards is divided among a fixed number of logical readers. In each epoch, the shards are shuffled
and dealt to the readers. Each reader goes through its epochs on its own, and batches take rows from the readers in
turn. The batches depend neither on the number of ranks nor on that of workers: a rank has some of the readers, and
reads their shards alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypedDict

from ..core.errors import BadSample, ConfigError
from ..data.dataset import Dataset
from ..data.stream import RowSource, ShardError, StreamedDataset, StreamError, number_of
from ..data.tokenizer import Tokenizer
from .config import TrainConfig
from .sampler import Plan, Position, Sampler, sample_sizes, shares, sized_tokenizer
from .seeding import mix
from .shuffle import Shuffle

log = logging.getLogger(__name__)

READERS = 16
"""Logical readers that are chosen where there are shards enough, unless there are more ranks."""
_EMPTY_EPOCHS = 100
"""Epochs without a single row after which a reader gives up."""


class BlockState(TypedDict):
    """Where a stream that is read in order is, as plain data.

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


class ReaderState(BlockState):
    """Where a logical reader is, as plain data. ``row`` counts within the shard.

    Attributes:
        epoch: of the reader.
        shard: how many of its shards of the epoch were read before the block.
    """

    epoch: int
    shard: int


class StreamSampler:
    """Batches of a stream, epoch after epoch. They do not depend on the number of ranks.

    A stream that is read in order is read by every rank, which takes its share of each batch, and the incomplete last
    batch of an epoch is dropped. With several logical readers, a rank reads the shards of its readers, and no row is
    dropped.

    Args:
        stream: the samples.
        seed: fixes the order.
        batch_size: samples per batch, over all ranks; or
        batch_tokens: maximum tokens per batch, over all ranks, of which each reader has an equal part.
        size: tokens of a row by its number and content, with ``batch_tokens``.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: there are more ranks than samples in a batch, or more readers than shards or samples.
    """

    def __init__(
        self,
        stream: StreamedDataset,
        *,
        seed: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        size: Callable[[int, Any], int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size is not None and batch_size < world_size:
            raise ConfigError(f"train.batch_size {batch_size} is too small for {world_size} ranks; set it to more")
        self._most = len(stream.shards) or 1
        if batch_size is not None:
            self._most = min(batch_size, self._most)
        if stream.readers is not None and stream.readers > self._most:
            raise ConfigError(
                f"data.stream_readers {stream.readers} is too many: {stream.where} has {len(stream.shards) or 1} "
                f"shards, and a batch {batch_size or batch_tokens} {'samples' if batch_size else 'tokens'}; set "
                f"{self._most} or fewer"
            )
        self.stream, self.seed, self.batch_size = stream, seed, batch_size
        self.batch_tokens, self.size = batch_tokens, size
        self.rank, self.world_size = rank, world_size

    def plans(self, start: Position) -> Iterator[Plan]:
        """This rank's batches from a position on, without end. A plan has the error that stopped the stream."""
        if isinstance(start.stream, dict) and "readers" in start.stream:
            count = int(start.stream["readers"])
        else:
            # A run that began in order goes on in order.
            count = self._choose_readers() if start == Position() else 1
        if self.world_size > 1 and self.rank == 0 and self.stream.shards and count < self.world_size:
            readers = f"by {count} readers" if count > 1 else "in order"
            log.warning(
                "%s is read %s, from %d shards, and there are %d ranks: each rank reads all of it",
                self.stream.where, readers, len(self.stream.shards), self.world_size,
            )  # fmt: skip
        if count == 1 and self.batch_size is not None:
            return self._in_order(start, self.batch_size)
        return self._by_readers(start, count)

    def _choose_readers(self) -> int:
        if self.stream.readers is not None:
            return self.stream.readers
        if self.world_size == 1 or self._most < self.world_size:
            return 1
        readers = self.world_size
        # Powers of two times the number of ranks serve many other numbers of ranks evenly.
        while 2 * readers <= min(self._most, READERS):
            readers *= 2
        return readers

    def _by_readers(self, start: Position, count: int) -> Iterator[Plan]:
        """Batches that take rows from the readers in turn."""
        everything = count < self.world_size
        states: Mapping[str, ReaderState] = start.stream["at"] if start.stream is not None else {}
        readers = {
            number: _Reader(self.stream, self.seed, number, count, states.get(str(number)))
            for number in range(count)
            if everything or number % self.world_size == self.rank
        }
        batch = start.batch
        while True:
            # Epochs of readers differ, so batches are counted through.
            at = Position(0, batch)
            try:
                taken = self._take(readers, batch, count)
                share = self._share(taken) if everything else taken
            except (StreamError, ConfigError) as error:
                yield Plan(at, (), at, error=error)
                return
            batch += 1
            epoch = min(reader.state["epoch"] for reader in readers.values())
            stream = {"readers": count, "at": {str(number): reader.state for number, reader in readers.items()}}
            yield Plan(
                at,
                tuple(row.number for row in share),
                Position(epoch, batch, stream),
                tuple(row.content for row in share),
                tuple(row.epoch for row in share),
                tuple(bad for reader in readers.values() for bad in reader.skipped()),
            )

    def _take(self, readers: Mapping[int, _Reader], batch: int, count: int) -> list[_Row]:
        """The rows of a batch that come from some readers."""
        if self.batch_size is not None:
            slots = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            return [next(readers[slot % count]) for slot in slots if slot % count in readers]
        assert self.batch_tokens is not None
        budget = self.batch_tokens // count
        taken = [row for reader in readers.values() for row in reader.take(budget, self._size)]
        if (size := max(map(self._size, taken))) > budget:
            longest = next(row for row in taken if self._size(row) == size)
            raise ConfigError(
                f"{self.stream.name(longest.number)} has {size} tokens, more than the {budget} of each of {count} "
                f"readers; set train.batch_tokens to {size * count} or more, data.stream_readers to fewer, or shorten "
                "the samples"
            )
        return taken

    def _size(self, row: _Row) -> int:
        assert self.size is not None
        if row.size is None:
            row.size = self.size(row.number, row.content)
        return row.size

    def _share(self, taken: list[_Row]) -> list[_Row]:
        """This rank's rows of a batch that every rank reads."""
        if self.batch_size is not None:
            return taken[self.rank :: self.world_size]
        if len(taken) < self.world_size:
            raise ConfigError(
                f"a batch of train.batch_tokens {self.batch_tokens} has {len(taken)} samples, fewer than the "
                f"{self.world_size} ranks; raise it, or start fewer"
            )
        parts = shares(range(len(taken)), [self._size(row) for row in taken], self.world_size)
        return [taken[index] for index in parts[self.rank]]

    def _in_order(self, start: Position, batch_size: int) -> Iterator[Plan]:
        at, state = start, start.stream
        while True:
            skipped: list[BadSample] = []
            rows = self._rows(at.epoch, state, skipped)
            while True:
                try:
                    batch = list(islice(rows, batch_size))
                except StreamError as error:
                    yield Plan(at, (), at, error=error)
                    return
                if len(batch) < batch_size:
                    break
                following = Position(at.epoch, at.batch + 1, dict(batch[-1][2]))
                share = batch[self.rank :: self.world_size]
                numbers, contents = tuple(number for number, *_ in share), tuple(row for _, row, _ in share)
                yield Plan(at, numbers, following, contents, skipped=tuple(skipped))
                skipped.clear()
                at = following
            if not at.batch:
                shards = f" ({skipped[0]})" if skipped else ""
                fewer = f"fewer than train.batch_size {batch_size}; lower it"
                yield Plan(
                    at, (), at, error=ConfigError(f"{self.stream.where} has {len(batch)} samples{shards}, {fewer}")
                )
                return
            if skipped:
                # They are reported though there is no batch to report them with.
                yield Plan(at, (), Position(at.epoch + 1), skipped=tuple(skipped))
            at, state = Position(at.epoch + 1), None

    def _rows(
        self, epoch: int, state: BlockState | None, skipped: list[BadSample]
    ) -> Iterator[tuple[int, Any, BlockState]]:
        """Rows with their numbers, and the position after each. Broken shards are added to ``skipped``."""
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
            read = list(_read(rows, _block_size(self.stream.shuffle_buffer, self.seed, epoch, block), epoch, first))
            skipped += rows.skipped()
            order: Sequence[int] = range(len(read))
            if self.stream.shuffle_buffer > 1:
                order = Shuffle(len(read), mix(self.seed, "block", epoch, block))
            for index in range(taken, len(read)):
                following: BlockState = {"source": source, "row": first, "block": block, "taken": index + 1}
                yield first + order[index], read[order[index]], following
            if not read:
                return
            source, first, block, taken = rows.state(), first + len(read), block + 1, 0


@dataclass
class _Row:
    """A row of a logical reader.

    Args:
        number: as :func:`hrt_mm.data.stream.number_of` has it.
        content: what the source gave.
        epoch: of the reader.
        size: in tokens, where it was computed.
    """

    number: int
    content: Any
    epoch: int
    size: int | None = None


class _Reader(Iterator[_Row]):
    """One of the logical readers of a stream: the rows of its shards, epoch after epoch, shuffled in blocks.

    Args:
        stream: the samples.
        seed: fixes the order.
        number: of this reader.
        count: of readers.
        state: where to go on; the beginning when ``None``.

    Attributes:
        state: after the last row.
    """

    def __init__(self, stream: StreamedDataset, seed: int, number: int, count: int, state: ReaderState | None) -> None:
        self.stream, self.seed, self.number, self.count = stream, seed, number, count
        self.state: ReaderState = state or {"source": None, "row": 0, "block": 0, "taken": 0, "epoch": 0, "shard": 0}
        # All readers together have the buffer.
        self._buffer = max(1, stream.shuffle_buffer // count)
        self._skipped: list[BadSample] = []
        self._iterator = self._rows()
        self._next: tuple[_Row, ReaderState] | None = None

    def __next__(self) -> _Row:
        row, self.state = self._next or next(self._iterator)
        self._next = None
        return row

    def take(self, budget: int, size: Callable[[_Row], int]) -> list[_Row]:
        """The next rows whose sizes add up to a budget at most; one at least."""
        taken: list[_Row] = []
        while True:
            if self._next is None:
                self._next = next(self._iterator)
            budget -= size(self._next[0])
            if taken and budget < 0:
                return taken
            taken.append(next(self))

    def skipped(self) -> list[BadSample]:
        """The broken shards that were skipped since the last call."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def _rows(self) -> Iterator[tuple[_Row, ReaderState]]:
        empty = 0
        while empty < _EMPTY_EPOCHS:
            epoch, empty = self.state["epoch"], empty + 1
            for item in self._epoch():
                yield item
                empty = 0
            self.state = {"source": None, "row": 0, "block": 0, "taken": 0, "epoch": epoch + 1, "shard": 0}
        raise StreamError(f"{self.stream.where} has no rows in the shards of reader {self.number}")

    def _epoch(self) -> Iterator[tuple[_Row, ReaderState]]:
        """The rest of an epoch, with the state after each row."""
        state = self.state
        epoch = state["epoch"]
        shards = Shuffle(len(self.stream.shards), mix(self.seed, "shards", epoch))[self.number :: self.count]
        before, taken = state, state["taken"]
        source: RowSource | None = None
        while True:
            shard, row, at = before["shard"], before["row"], before["source"]
            block, read = before["block"], list[_Row]()
            size = _block_size(self._buffer, self.seed, epoch, block, self.number)
            while len(read) < size and shard < len(shards):
                try:
                    if source is None:
                        source = self._open(shards[shard], at, row)
                    content = next(source)
                except (StopIteration, ShardError) as error:
                    if isinstance(error, ShardError):
                        self._skipped.append(BadSample(error.shard, error.reason))
                    source, shard, row, at = None, shard + 1, 0, None
                except StreamError as error:
                    raise _stopped(error, epoch, f"row {row} of {self.stream.shards[shards[shard]]}") from error
                else:
                    read.append(_Row(number_of(shards[shard], row), content, epoch))
                    row += 1
            if not read:
                return
            order: Sequence[int] = range(len(read))
            if self._buffer > 1:
                order = Shuffle(len(read), mix(self.seed, "block", epoch, block, self.number))
            for index in range(taken, len(read)):
                yield read[order[index]], {**before, "taken": index + 1}
            taken = 0
            at = source.state() if source is not None else None
            before = {"source": at, "row": row, "block": block + 1, "taken": 0, "epoch": epoch, "shard": shard}

    def _open(self, shard: int, at: Any, row: int) -> RowSource:
        source = self.stream.open_shard(shard, at)
        if at is None:
            # The source has no states, so what comes before is read again.
            for _ in islice(source, row):
                pass
        return source


def _block_size(buffer: int, seed: int, epoch: int, block: int, *reader: int) -> int:
    # Were the first block as long as the others, the same rows would be shuffled among each other in every epoch.
    return buffer if block else 1 + mix(seed, "first block", epoch, *reader) % buffer


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
        raise _stopped(error, epoch, f"{number} rows") from error


def _stopped(error: StreamError, epoch: int, after: str) -> StreamError:
    return StreamError(
        f"{error}; it stopped in epoch {epoch} after {after}. Resume (--resume) when it can be read again"
    )


def joined(positions: Sequence[Position]) -> Position:
    """The position of a run, from those of all ranks, each of which has the states of its own readers."""
    first = positions[0]
    if not (isinstance(first.stream, dict) and "readers" in first.stream):
        return first
    states = {number: state for position in positions for number, state in position.stream["at"].items()}
    stream = {**first.stream, "at": {str(number): states[str(number)] for number in range(len(states))}}
    return replace(first, epoch=min(position.epoch for position in positions), stream=stream)


def train_sampler(
    dataset: Dataset, tokenizers: Mapping[str, Tokenizer], options: TrainConfig, *, rank: int = 0, world_size: int = 1
) -> Sampler | StreamSampler:
    """The batches of the training split.

    Raises:
        ConfigError: the dataset cannot fill a batch, or does not tell sizes for batches by tokens.
    """
    if isinstance(dataset, StreamedDataset):
        if options.bucket_window is not None:
            raise ConfigError(
                f"train.bucket_window needs all lengths in advance, and {dataset.where} is a stream; drop it"
            )
        return StreamSampler(
            dataset,
            seed=options.seed,
            batch_size=options.batch_size,
            batch_tokens=options.batch_tokens,
            size=_size_of(dataset, tokenizers) if options.batch_tokens is not None else None,
            rank=rank,
            world_size=world_size,
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


def _size_of(stream: StreamedDataset, tokenizers: Mapping[str, Tokenizer]) -> Callable[[int, Any], int]:
    """A function that returns the tokens of a row; 1 where they cannot be read, as loading reports it."""
    tokenizer = sized_tokenizer(tokenizers)

    def size(number: int, row: Any) -> int:
        try:
            return tokenizer.size(stream.shape_of(number, row))
        except BadSample:
            return 1

    return size
