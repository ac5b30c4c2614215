"""Rows of Parquet tables. Columns with the bytes of files are read when a file is needed, a row group at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.extras import needs_extra
from .contained import FileCell

_ROWS = 1024
"""Rows that are read at once."""
_FEW_ROWS = 16
"""Likewise, of columns with the bytes of files."""
MAX_CACHED = 1 << 28
"""Bytes of row groups that are cached. Rows of larger groups are read from the beginning of the group."""


class ParquetFiles:
    """The files in a column of a Parquet table.

    Args:
        file: the table.
        leaf: path of the column in the schema: ``image``, or ``image.bytes`` of a struct.
    """

    def __init__(self, file: Path, leaf: str) -> None:
        self.file, self.leaf = file, leaf
        self._stamp = _stamp(file)
        self._table: Any = None
        self._ends: list[int] = []
        self._sizes: list[int] = []
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Path, size, modification time and column."""
        return f"{self.file.absolute()} {self._stamp} {self.leaf}"

    def read(self, key: int) -> bytes:
        """The bytes in a row, counted from 0.

        Raises:
            OSError, ValueError: the table was changed or is damaged, or the row has no bytes.
        """
        with self._lock:
            if _stamp(self.file) != self._stamp:
                raise ValueError("the table was changed after it was listed; start again")
            if self._table is None:
                self._table = _opened(self.file)
                metadata = self._table.metadata
                self._ends = list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
            group = bisect_right(self._ends, key)
            value = self._value(group, key - (self._ends[group - 1] if group else 0))
        if isinstance(value, dict):
            (value,) = value.values()
        if not isinstance(value, bytes):
            raise ValueError("the cell has no bytes")
        return value

    def size(self, key: int) -> int:
        """Average size of the cells in the row group of a row, in bytes.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        with self._lock:
            if not self._sizes:
                # The table is not left open, as a process that is forked later would share its file position.
                with _opened(self.file) as table:
                    groups = [table.metadata.row_group(index) for index in range(table.metadata.num_row_groups)]
                    totals = [
                        _chunk(table.metadata, index, self.leaf).total_uncompressed_size for index in range(len(groups))
                    ]
                rows = [group.num_rows for group in groups]
                self._ends = list(accumulate(rows))
                self._sizes = [total // max(1, count) for total, count in zip(totals, rows, strict=True)]
            return self._sizes[bisect_right(self._ends, key)]

    def _value(self, group: int, row: int) -> Any:
        cached = _groups.get((self.identity, group))
        if cached is not None:
            return cached[row].as_py()
        if _chunk(self._table.metadata, group, self.leaf).total_uncompressed_size > MAX_CACHED:
            for batch in self._batches(group):
                if row < len(batch):
                    return batch.column(0)[row].as_py()
                row -= len(batch)
            raise ValueError("the row group ends early")
        column = self._table.read_row_group(group, columns=[self.leaf], use_threads=False).column(0)
        _groups.put((self.identity, group), column)
        return column[row].as_py()

    def valid(self, table: Any, group: int) -> list[bool] | None:
        """Which rows of a row group have bytes; ``None`` if all have, as statistics may tell without reading them."""
        statistics = _chunk(table.metadata, group, self.leaf).statistics
        if statistics is not None and statistics.has_null_count and not statistics.null_count:
            return None
        self._table = table
        valid: list[bool] = []
        for batch in self._batches(group):
            column = batch.column(0)
            valid += (column.flatten()[0] if "." in self.leaf else column).is_valid().to_pylist()
        self._table = None
        return valid

    def _batches(self, group: int) -> Iterator[Any]:
        batches: Iterator[Any] = self._table.iter_batches(
            _FEW_ROWS, row_groups=[group], columns=[self.leaf], use_threads=False
        )
        return batches

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_table", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _table=None, _lock=threading.Lock())


class _Groups:
    """Row groups of columns, the least recently used of which are dropped."""

    def __init__(self) -> None:
        self._columns: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> Any | None:
        with self._lock:
            if key in self._columns:
                self._columns.move_to_end(key)
            return self._columns.get(key)

    def put(self, key: tuple[str, int], column: Any) -> None:
        with self._lock:
            self._columns[key] = column
            while len(self._columns) > 1 and sum(held.nbytes for held in self._columns.values()) > MAX_CACHED:
                self._columns.popitem(last=False)


_groups = _Groups()


@dataclass(frozen=True)
class _FileColumn:
    """A column of files.

    Args:
        files: their bytes.
        path: the leaf of the paths beside them, if there are any.
    """

    files: ParquetFiles
    path: str | None


def parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with their numbers, from 1.

    Cells with bytes are :class:`~.contained.FileCell`: columns of ``binary``, and structs of ``bytes`` and ``path``, as
    Hugging Face ``datasets`` writes them; of these, a row without bytes has its path.

    Raises:
        ConfigError: the file is empty, damaged or no Parquet.
    """
    with needs_extra("data", "a table in Parquet"):
        pyarrow: Any = import_module("pyarrow")
    number = 0
    try:
        with _opened(file) as table:
            columns = _file_columns(file, table.schema_arrow, pyarrow.types)
            leaves = [name for name in table.schema_arrow.names if name not in columns]
            leaves += [column.path for column in columns.values() if column.path is not None]
            for group in range(table.metadata.num_row_groups):
                valid = {name: column.files.valid(table, group) for name, column in columns.items()}
                for index, row in enumerate(_plain_rows(table, group, leaves)):
                    for name, column in columns.items():
                        mask, path = valid[name], row.pop(name, None)
                        has_bytes = mask is None or mask[index]
                        row[name] = FileCell(column.files, number) if has_bytes else (path or {}).get("path")
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}; create it again") from error
    if not number:
        raise ConfigError(f"{file} is empty")


def _plain_rows(table: Any, group: int, leaves: list[str]) -> Iterator[dict[str, Any]]:
    if not leaves:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    for batch in table.iter_batches(_ROWS, row_groups=[group], columns=leaves, use_threads=False):
        yield from batch.to_pylist()


def _file_columns(file: Path, schema: Any, types: Any) -> dict[str, _FileColumn]:
    columns = {}
    for field in schema:
        inside = {child.name: child.type for child in field.type} if types.is_struct(field.type) else {}
        if _is_bytes(field.type, types):
            columns[field.name] = _FileColumn(ParquetFiles(file, field.name), None)
        elif "bytes" in inside and _is_bytes(inside["bytes"], types):
            path = f"{field.name}.path" if "path" in inside else None
            columns[field.name] = _FileColumn(ParquetFiles(file, f"{field.name}.bytes"), path)
    return columns


def _is_bytes(kind: Any, types: Any) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _opened(file: Path) -> Any:
    parquet: Any = import_module("pyarrow.parquet")
    # Reading ahead uses threads, which a forked worker does not have.
    return parquet.ParquetFile(file, pre_buffer=False)


def _chunk(metadata: Any, group: int, leaf: str) -> Any:
    columns = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
    return next(column for column in columns if column.path_in_schema == leaf)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
