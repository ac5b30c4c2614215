"""Hugging Face ``datasets`` that stream (``IterableDataset``): rows in order, and samples made of one row at a time."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.contained import FileCell
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.stream import RowSource, StreamedDataset, StreamError
from hrt_mm.data.tokenizer import Tokenizer

from .tables import Paths, Row

log = logging.getLogger(__name__)

_FOLDERS = ("imagefolder", "audiofolder", "videofolder")
"""Builders of ``datasets`` whose paths are those of the files that they found, and not written in a table."""


class RowDataset(Protocol):
    """Makes datasets of rows: what configurations of rows have."""

    @property
    def home(self) -> Path: ...

    @abstractmethod
    def of_rows(
        self, rows: Sequence[tuple[Row, str, Paths]], classes: tuple[str, ...] | None, *, training: bool
    ) -> Dataset:
        """The dataset of rows with their locations."""


class RowBytes:
    """The bytes of a file in a row that is in memory.

    Args:
        content: the bytes.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    @cached_property
    def identity(self) -> str:
        """A checksum."""
        return blake2b(self.content, digest_size=16).hexdigest()

    def read(self, key: int) -> bytes:
        """The bytes."""
        return self.content

    def size(self, key: int) -> int:
        """Number of bytes."""
        return len(self.content)


class HuggingFaceSource(RowSource):
    """The rows of a ``datasets.IterableDataset``.

    Args:
        rows: the dataset, of which there is one reader at a time.
        state: where to go on; the beginning when ``None``.
        where: the source, for messages.
    """

    def __init__(self, rows: Any, state: Any, where: str) -> None:
        self._rows, self._where, self._count = rows, where, 0
        splits, split = getattr(rows.info, "splits", None) or {}, str(rows.split)
        self._expected = splits[split].num_examples if state is None and split in splits else None
        try:
            rows.load_state_dict(state)
            self._iterator = iter(rows)
        except Exception as error:
            raise StreamError(f"{where} cannot be read on from the saved state: {_reason(error)}") from error

    def __next__(self) -> dict[str, Any]:
        try:
            row: dict[str, Any] = next(self._iterator)
            row = {column: self._fetched(value) for column, value in row.items()}
        except StopIteration:
            if self._expected is not None and self._count < self._expected:
                raise StreamError(f"{self._where} ends early: it should have {self._expected:,} rows") from None
            raise
        except Exception as error:
            # The package raises many kinds of exceptions, including those of the network.
            raise StreamError(f"{self._where} cannot be read: {_reason(error)}") from error
        self._count += 1
        return row

    def state(self) -> Any:
        return self._rows.state_dict() if hasattr(self._rows, "state_dict") else None

    def _fetched(self, value: Any) -> Any:
        """A cell, with the bytes of a remote file of a folder."""
        if not isinstance(value, dict) or value.get("bytes") is not None or "://" not in (value.get("path") or ""):
            return value
        if self._rows.info.builder_name not in _FOLDERS:
            return value
        utilities: Any = import_module("datasets.utils.file_utils")
        with utilities.xopen(value["path"], "rb") as file:
            return {**value, "bytes": file.read()}


class StreamedRows(StreamedDataset):
    """The rows of a ``datasets.IterableDataset`` as samples.

    Args:
        config: makes datasets of rows.
        rows: the dataset, with media that are not decoded.
        path: of the dataset, for messages.
        split: of the dataset.
        classes: names of the classes, or ``None``.
        shuffle_buffer: rows that are shuffled among each other.
    """

    def __init__(
        self,
        config: RowDataset,
        rows: Any,
        path: str,
        split: str,
        classes: tuple[str, ...] | None,
        shuffle_buffer: int,
    ) -> None:
        self.config, self.rows, self.path, self.split = config, rows, path, split
        self.where = f"data.path {path}, split {split}"
        self.classes: tuple[str, ...] | None = classes
        self.shuffle_buffer = shuffle_buffer
        self._labels = class_names(rows)
        self._tokenizers: Mapping[str, Tokenizer] = {}

    def open(self, state: Any = None) -> HuggingFaceSource:
        return HuggingFaceSource(self.rows, state, self.where)

    def read(self, number: int, row: Any) -> Sample:
        dataset = self.config.of_rows([self.located(number, row)], self.classes, training=True)
        dataset.limit_towers(self._tokenizers)
        sample = dataset[0]
        if self.classes is not None:
            labels = sample.label if isinstance(sample.label, list) else [sample.label]
            if unknown := [label for label in labels if label is not None and label not in self.classes]:
                raise ConfigError(f"{self.name(number)}: {unknown[0]!r} is none of the classes; add it to data.classes")
        return sample

    def head(self, count: int) -> Dataset:
        """The first rows as a dataset in memory, without augmentation.

        Args:
            count: maximum number of rows.

        Raises:
            StreamError: they cannot be read.
        """
        read = list(islice(self.open(), count + 1))
        if len(read) > count:
            log.warning("%s: the first %d rows are used; data.eval_rows sets their number", self.where, count)
        located = [self.located(number, row) for number, row in enumerate(read[:count])]
        return self.config.of_rows(located, self.classes, training=False)

    def located(self, number: int, row: Mapping[str, Any]) -> tuple[Row, str, Paths]:
        """A row whose bytes are files and whose classes are names, its location, and the paths that it may name."""
        cells: dict[str, Any] = {}
        for column, value in row.items():
            content = value.get("bytes") if isinstance(value, dict) else value
            if isinstance(content, bytes):
                value = FileCell(RowBytes(content), 0)
            elif isinstance(value, dict) and "bytes" in value:
                value = value.get("path")
            elif column in self._labels:
                labels = self._labels[column]
                value = labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None
            cells[column] = value
        return cells, self.name(number), Paths(Path(self.path) / self.split, self.config.home)

    def name(self, index: int) -> str:
        """The dataset, the split and the row."""
        return f"{self.path}:{self.split}:{index}"

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits what is read of each row."""
        self._tokenizers = tokenizers

    def __getstate__(self) -> dict[str, Any]:
        # Workers do not read rows.
        return {**self.__dict__, "rows": None}


def undecoded(rows: Any) -> Any:
    """A ``datasets.IterableDataset`` whose images, sounds and videos stay bytes or paths."""
    for column, feature in (rows.features or {}).items():
        if getattr(feature, "decode", False):
            rows = rows.cast_column(column, type(feature)(decode=False))
    return rows


def class_names(rows: Any) -> dict[str, Sequence[str]]:
    """The names of classes, by column of ``ClassLabel``."""
    return {
        column: feature.names
        for column, feature in (rows.features or {}).items()
        if getattr(feature, "names", None) and hasattr(feature, "int2str")
    }


def _reason(error: Exception) -> str:
    """The exceptions that led to one, the first of which tells most."""
    return ", from ".join(
        f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}" for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)
