"""Hugging Face ``datasets`` that stream (``IterableDataset``): rows in order, and samples made of one row at a time."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.contained import FileBytes, FileCell
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.stream import (
    InOrder,
    Retried,
    RowSource,
    ShardError,
    StreamedDataset,
    StreamError,
    UnreachableError,
    shard_and_row,
)
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


class HuggingFaceSource(RowSource):
    """The rows of a ``datasets.IterableDataset``.

    Args:
        rows: the dataset, of which there is one reader at a time.
        state: where to go on; the beginning when ``None``.
        name: of the shard that the rows are, or of the whole.
        where: the source, for messages.

    Raises:
        ShardError: a file cannot be read.
        UnreachableError: a server does not answer.
        StreamError: the state is of other data.
    """

    def __init__(self, rows: Any, state: Any, name: str, where: str) -> None:
        self._rows, self._name, self._where, self._count = rows, name, where, 0
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
            raise
        except Exception as error:
            # The package raises many kinds of exceptions, including those of the network.
            if _is_unreachable(error):
                raise UnreachableError(f"{self._where} cannot be read: {_reason(error)}") from error
            lost = f"the rows after {self._count} of this reading" if self._count else "all of its rows"
            raise ShardError(self._name, f"{_reason(error)}; {lost} are lost") from error
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


class HuggingFaceShards:
    """The shards of a ``datasets.IterableDataset``, such as files of Parquet.

    Args:
        rows: the dataset.
        path: of the dataset, for messages.
        split: of the dataset.

    Attributes:
        names: of the shards.
    """

    def __init__(self, rows: Any, path: str, split: str) -> None:
        self.rows, self.where = rows, f"data.path {path}, split {split}"
        count = int(getattr(rows, "num_shards", 1))
        files = _files_of(rows)
        self.names = (
            tuple(files)
            if len(set(files)) == count
            else tuple(f"{path}:{split}:shard {number} of {count}" for number in range(count))
        )

    def open(self, shard: int, state: Any) -> RowSource:
        """The rows of a shard from a state on."""

        def opened(state: Any) -> RowSource:
            count = len(self.names)
            rows = self.rows.shard(num_shards=count, index=shard) if count > 1 else self.rows
            return HuggingFaceSource(rows, state, self.names[shard], self.where)

        return Retried(opened, state)

    def in_order(self, state: Any) -> RowSource:
        """The rows of all shards from a state on."""
        if state is not None and "shard" not in state:
            # Saved by an earlier version, which read all shards by one reader of the package.
            return HuggingFaceSource(self.rows, state, self.where, self.where)
        splits, split = getattr(self.rows.info, "splits", None) or {}, str(self.rows.split)
        expected = splits[split].num_examples if split in splits else None
        return InOrder(self.names, self.open, state, self.where, expected)


class StreamedRows(StreamedDataset):
    """The rows of a ``datasets.IterableDataset`` as samples.

    Args:
        config: makes datasets of rows.
        rows: the dataset, with media that are not decoded.
        path: of the dataset, for messages.
        split: of the dataset.
        classes: names of the classes, or ``None``.
        shuffle_buffer: rows that are shuffled among each other.
        readers: logical readers of the shards; ``None`` to choose.
    """

    def __init__(
        self,
        config: RowDataset,
        rows: Any,
        path: str,
        split: str,
        classes: tuple[str, ...] | None,
        shuffle_buffer: int,
        readers: int | None = None,
    ) -> None:
        self.config, self.path, self.split = config, path, split
        self.source: HuggingFaceShards | None = HuggingFaceShards(rows, path, split)
        self.where, self.shards = self.source.where, self.source.names
        self.classes: tuple[str, ...] | None = classes
        self.shuffle_buffer, self.readers = shuffle_buffer, readers
        self._labels = class_names(rows)
        self._tokenizers: Mapping[str, Tokenizer] = {}

    def open(self, state: Any = None) -> RowSource:
        assert self.source is not None
        return self.source.in_order(state)

    def open_shard(self, shard: int, state: Any = None) -> RowSource:
        assert self.source is not None
        return self.source.open(shard, state)

    def shape_of(self, number: int, row: Any) -> Sequence[int]:
        return self._dataset(number, row).shape(0)

    def _dataset(self, number: int, row: Any) -> Dataset:
        dataset = self.config.of_rows([self.located(number, row)], self.classes, training=True)
        dataset.limit_towers(self._tokenizers)
        return dataset

    def read(self, number: int, row: Any) -> Sample:
        sample = self._dataset(number, row)[0]
        check_label(sample, self.classes, self.name(number))
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
                value = FileCell(FileBytes(content), 0)
            elif isinstance(value, dict) and "bytes" in value:
                value = value.get("path")
            elif column in self._labels:
                labels = self._labels[column]
                value = labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None
            cells[column] = value
        return cells, self.name(number), Paths(Path(self.path) / self.split, self.config.home)

    def name(self, index: int) -> str:
        """The dataset, the split, and the row, with its shard where shards are read apart."""
        shard, _ = shard_and_row(index)
        return f"{self.path}:{self.split}:{index}" if shard is None else self.row_name(index)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits what is read of each row."""
        self._tokenizers = tokenizers

    def __getstate__(self) -> dict[str, Any]:
        # Workers do not read rows.
        return {**self.__dict__, "source": None}


def check_label(sample: Sample, classes: tuple[str, ...] | None, name: str) -> None:
    """Refuses a label that is none of the classes.

    Raises:
        ConfigError: names it.
    """
    labels = sample.label if isinstance(sample.label, list) else [sample.label]
    unknown = [label for label in labels if label is not None and label not in (classes or ())]
    if classes is not None and unknown:
        raise ConfigError(f"{name}: {unknown[0]!r} is none of the classes; add it to data.classes")


def _files_of(rows: Any) -> list[str]:
    """The files of an ``IterableDataset``, one for each shard; empty where the package does not tell."""
    iterable: Any = getattr(rows, "_ex_iterable", None)
    while hasattr(iterable, "ex_iterable"):
        iterable = iterable.ex_iterable
    arguments = getattr(iterable, "kwargs", None) or {}
    names = arguments.get("original_files") or arguments.get("files") or []
    return [printable(str(name)) for name in names] if isinstance(names, list | tuple) else []


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


_NETWORK = frozenset({"aiohttp", "botocore", "http", "httpx", "huggingface_hub", "requests", "urllib3"})
"""Packages whose exceptions are those of the network."""


def _is_unreachable(error: Exception) -> bool:
    """Whether a server does not answer, which is not an answer that there is no such file."""
    causes = list(_causes(error))
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return False
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.partition(".")[0] in _NETWORK
        for cause in causes
    )


def _reason(error: Exception) -> str:
    """The exceptions that led to one, the first of which tells most."""
    return ", from ".join(
        f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}" for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)
