"""The contract of streams: samples that are read in order, shard by shard, such as those of a remote dataset."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..core.errors import BadSample, ConfigError, UserError
from .dataset import Dataset
from .sample import Sample

log = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a server that does not answer is asked before the stream stops."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
"""Seconds before the second attempt, each later one waiting twice as long, and the longest wait."""
_ROW_BITS = 40


class StreamError(UserError):
    """A stream that cannot be read on; names the source and what was read."""


class UnreachableError(StreamError):
    """A server that does not answer. It may answer later."""


class ShardError(UserError):
    """A shard that cannot be read, or not to its end; the other shards can be.

    Args:
        shard: its name.
        reason: what is wrong with it, and which samples are lost.
    """

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(f"{shard}: {reason}")
        self.shard, self.reason = shard, reason

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str]]:
        return type(self), (self.shard, self.reason)


class RowSource(Iterator[Any], ABC):
    """Reads rows once, in order."""

    @abstractmethod
    def __next__(self) -> Any:
        """The next row, which can be pickled.

        Raises:
            ShardError: the shard is broken from here on.
            UnreachableError: a server does not answer.
            StreamError: the stream cannot be read.
        """

    @abstractmethod
    def state(self) -> Any:
        """Where reading goes on after the last row, as plain data; ``None`` if the source cannot go on from there."""

    def skipped(self) -> list[BadSample]:
        """The broken shards that were skipped since the last call; none for a source of one shard."""
        return []


class Retried(RowSource):
    """A source that is opened again where it was when its server does not answer, with growing waits.

    Args:
        open_at: opens the source at a state.
        state: where to begin; the beginning when ``None``.
    """

    def __init__(self, open_at: Callable[[Any], RowSource], state: Any = None) -> None:
        self._open_at, self._state = open_at, state
        self._source: RowSource | None = None
        self._read = 0

    def __next__(self) -> Any:
        wait = _FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._source is None:
                    self._source = self._open_at(self._state)
                row = next(self._source)
            except UnreachableError as error:
                self._state, self._source = self.state(), None
                # A source that cannot go on where it was would give rows twice.
                if attempt == ATTEMPTS or (self._read and self._state is None):
                    attempts = f" (attempt {attempt} of {ATTEMPTS})" if attempt > 1 else ""
                    raise StreamError(f"{error}{attempts}") from error
                log.warning("%s; attempt %d of %d follows in %.0f s", error, attempt + 1, ATTEMPTS, wait)
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._read += 1
                return row
        raise AssertionError

    def state(self) -> Any:
        return self._state if self._source is None else self._source.state()


class InOrder(RowSource):
    """The shards of a stream one after another. Broken ones are skipped.

    Args:
        names: of the shards.
        open_shard: opens a shard at a state.
        state: where to go on; the beginning when ``None``.
        where: the source, for messages.
        expected: rows of all shards, where that is known.
    """

    def __init__(
        self,
        names: Sequence[str],
        open_shard: Callable[[int, Any], RowSource],
        state: Any,
        where: str,
        expected: int | None = None,
    ) -> None:
        self._names, self._open_shard, self._where = names, open_shard, where
        self._shard: int = 0 if state is None else state["shard"]
        self._at: Any = None if state is None else state["rows"]
        self._source: RowSource | None = None
        # Rows are counted from the beginning alone.
        self._expected = expected if state is None else None
        self._count = self._of_shard = 0
        self._skipped: list[BadSample] = []

    def __next__(self) -> Any:
        while self._shard < len(self._names):
            try:
                if self._source is None:
                    self._source = self._open_shard(self._shard, self._at)
                row = next(self._source)
            except StopIteration:
                pass
            except ShardError as error:
                self._skipped.append(BadSample(error.shard, error.reason))
                self._expected = None
            else:
                self._count, self._of_shard = self._count + 1, self._of_shard + 1
                return row
            self._shard, self._source, self._at, self._of_shard = self._shard + 1, None, None, 0
        if self._expected is not None and self._count < self._expected:
            raise StreamError(f"{self._where} ends early: it should have {self._expected:,} rows")
        raise StopIteration

    def state(self) -> Any:
        rows = self._at if self._source is None else self._source.state()
        if rows is None and self._of_shard:
            return None
        return {"shard": self._shard, "rows": rows}

    def skipped(self) -> list[BadSample]:
        skipped, self._skipped = self._skipped, []
        return skipped


class StreamedDataset(Dataset, ABC):
    """Training samples that can only be read in order.

    Rows are read in the training process, and become samples in workers. A copy that is sent to a worker need not be
    able to read rows.

    Attributes:
        where: the source, for messages.
        shuffle_buffer: rows that are shuffled among each other; 1 for none.
        shards: names of the parts that can be read apart, in order; empty if there are none.
        readers: logical readers that the shards are dealt to; ``None`` to choose.
    """

    where: str
    shuffle_buffer: int = 1
    shards: Sequence[str] = ()
    readers: int | None = None

    @abstractmethod
    def open(self, state: Any = None) -> RowSource:
        """Starts to read all shards in order.

        Args:
            state: of an earlier source, to go on after it; from the beginning when ``None``.

        Raises:
            StreamError: the state is of other data.
        """

    def open_shard(self, shard: int, state: Any = None) -> RowSource:
        """Starts to read one of :attr:`shards`.

        Args:
            shard: its index.
            state: of an earlier source of this shard, to go on after it; from the beginning when ``None``.
        """
        raise NotImplementedError(type(self))

    @abstractmethod
    def read(self, number: int, row: Any) -> Sample:
        """The sample of a row. Random augmentation draws from torch's generator.

        Args:
            number: of the row, from 0; or as :func:`number_of` has it.
            row: of :class:`RowSource`.

        Raises:
            BadSample: it cannot be read; the loader skips, counts and names it.
        """

    def shape_of(self, number: int, row: Any) -> Sequence[int]:
        """The shape of the sample of a row, without decoding it; see :meth:`hrt_mm.data.dataset.Dataset.shape`.

        Raises:
            BadSample: it cannot be read.
            ConfigError: this data does not tell shapes.
        """
        raise ConfigError(f"{self.where} does not tell sizes in advance; use train.batch_size")

    def row_name(self, number: int) -> str:
        """The row of a number, and its shard if it has one: ``12`` or ``train-000003.tar:12``."""
        shard, row = shard_and_row(number)
        return str(row) if shard is None else f"{self.shards[shard]}:{row}"

    def __len__(self) -> int:
        """Not known.

        Raises:
            ConfigError: always; says what to do.
        """
        raise ConfigError(
            f"{self.where} is a stream, which is read in order and whose length is not known; use the split val or "
            "test, or data without streaming"
        )

    def __getitem__(self, index: int) -> Sample:
        """Not possible.

        Raises:
            ConfigError: always; says what to do.
        """
        raise ConfigError(
            f"{self.where} is a stream, which is read in order; use the split val or test, or data without streaming"
        )


def number_of(shard: int, row: int) -> int:
    """The number of a row within a shard, which no row of another shard has."""
    return (shard + 1) << _ROW_BITS | row


def shard_and_row(number: int) -> tuple[int | None, int]:
    """The shard and the row of a number; without a shard where the stream is read as a whole."""
    shard, row = number >> _ROW_BITS, number & ((1 << _ROW_BITS) - 1)
    return (shard - 1 if shard else None), row
