"""The contract of streams: samples that can only be read in order, such as those of a remote dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from ..core.errors import ConfigError, UserError
from .dataset import Dataset
from .sample import Sample


class StreamError(UserError):
    """A stream that cannot be read on; names the source and what was read."""


class RowSource(Iterator[Any], ABC):
    """Reads the rows of a stream once, in order."""

    @abstractmethod
    def __next__(self) -> Any:
        """The next row, which can be pickled.

        Raises:
            StreamError: it cannot be read.
        """

    @abstractmethod
    def state(self) -> Any:
        """Where reading goes on after the last row, as plain data; ``None`` if the source cannot go on from there."""


class StreamedDataset(Dataset, ABC):
    """Training samples that can only be read in order.

    Rows are read in the training process, and become samples in workers. A copy that is sent to a worker need not be
    able to read rows.

    Attributes:
        where: the source, for messages.
        shuffle_buffer: rows that are shuffled among each other; 1 for none.
    """

    where: str
    shuffle_buffer: int = 1

    @abstractmethod
    def open(self, state: Any = None) -> RowSource:
        """Starts to read.

        Args:
            state: of an earlier source, to go on after it; from the beginning when ``None``.

        Raises:
            StreamError: the state is of other data.
        """

    @abstractmethod
    def read(self, number: int, row: Any) -> Sample:
        """The sample of a row. Random augmentation draws from torch's generator.

        Args:
            number: of the row, from 0.
            row: of :class:`RowSource`.

        Raises:
            BadSample: it cannot be read; the loader skips, counts and names it.
        """

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
