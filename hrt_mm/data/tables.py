"""Reading tables with one row per sample: CSV and TSV with a header, and JSONL, plain or compressed; and Parquet.

Tables are untrusted: paths in them are confined to a folder.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import ConfigError, printable
from .contained import ContainedFile, FileCell
from .files import nearly, special
from .parquet import parquet_rows

Row = Mapping[str, Any]

MAX_CELL = 1 << 28
"""Maximum characters of a cell or a line of JSONL, as a small compressed file can expand to gigabytes."""
_KINDS = (".csv", ".tsv", ".jsonl")
_PARQUET = ".parquet"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = (
    (b"\x1f\x8b", "gzip: let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it, or compress it with gzip"),
    (b"BZh", "bzip2: let its name end in .bz2"),
    (b"\xfd7zXZ\x00", "xz: let its name end in .xz"),
    (b"PK\x03\x04", "a zip archive, as of a spreadsheet: save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet of Excel: save it as CSV in UTF-8"),
    (b"PAR1", "Parquet: let its name end in .parquet"),
)
_COMPRESSED: dict[str, Callable[[Path], Any]] = {
    "": partial(open, mode="rb"),
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_SPECIAL_COMPONENTS = frozenset(("", ".", ".."))
"""Path components that need normalization. An absolute path starts with an empty one."""
_INVALID = re.compile("[\udc80-\udcff]")

# The limit is global; raising it does not affect other readers.
csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))


def rows_of(file: Path, key: str, kind: str | None = None) -> Iterator[tuple[int, Row]]:
    """Iterates over the rows of a table, each with its line number; in Parquet with its number, from 1.

    Cells of CSV and TSV are strings, or ``None`` past the end of a short row. Cells of Parquet with the bytes of a file
    are :class:`~.contained.FileCell`.

    Args:
        file: the table. Its suffixes determine format and compression, as in ``.csv``, ``.tsv.gz`` and ``.parquet``.
        key: the setting that names the file, for messages.
        kind: its format, such as ``.jsonl``, if that is not its suffix.

    Raises:
        ConfigError: the file is missing, empty or malformed; names the line.
    """
    suffix, packing = kind_of(file)
    kind = kind or suffix
    if kind == _PARQUET and not packing:
        _check_file(file, key)
        yield from parquet_rows(file)
        return
    if kind not in _KINDS or packing not in _COMPRESSED:
        zst = "; Zstandard is not read: unpack it, or use .gz" if packing == ".zst" else ""
        raise ConfigError(
            f"{key} {file} must end in {', '.join(_KINDS)}, or in .gz, .bz2 or .xz behind these, or in {_PARQUET}{zst}"
        )
    _check_file(file, key)
    with _bytes_of(file, packing) as raw, _text_of(raw, file) as lines:
        if kind == ".jsonl":
            yield from _read_jsonl(lines, file)
        else:
            yield from _read_table(lines, file, "," if kind == ".csv" else "\t")


def kind_of(file: Path) -> tuple[str, str]:
    """The suffixes of a table, in lower case: that of its format, and that of its compression."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz", ".zst"):
        return "".join(suffixes[:-1]), suffixes[-1]
    return "".join(suffixes[-1:]), ""


def lacking(row: Row, column: str) -> str:
    """Describes a missing value: "null", "empty", "missing, as the row has only 2 cells"."""
    if column not in row:
        return f"missing, as the row has {', '.join(map(printable, row)) or 'none'}"
    value = row[column]
    if isinstance(value, str):
        return "empty"
    if value is None and (cells := getattr(row, "cells", None)) is not None:
        return f"missing, as the row has only {cells} of {len(row)} cells"
    return "null" if value is None else "NaN"


def is_missing(value: Any) -> bool:
    """Whether a value is missing: absent, null, blank or NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts_of(row: Row) -> dict[str, str]:
    """The values of a row to display, by column, without missing ones and without files.

    Lists of texts are joined by semicolons, and other values that are no texts are written as JSON.
    """
    return {
        printable(str(column)): text_of(value)
        for column, value in row.items()
        if not (is_missing(value) or isinstance(value, FileCell))
    }


def text_of(value: Any) -> str:
    """A value of a table as a text; see :func:`texts_of`."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = "; ".join(value)
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


class _Cells(dict[str, Any]):
    """A row of CSV or TSV. ``cells`` is the number of cells in it."""

    cells: int


class Paths:
    """Reads paths from a table and confines them to a folder.

    Args:
        table: the table.
        root: the folder that paths are relative to; that of the table if ``None``. Absolute paths must lie inside.
        key: the setting that names the root, for messages.

    Raises:
        ConfigError: the root is not a folder.
    """

    def __init__(self, table: Path, root: Path | None = None, key: str = "data.root") -> None:
        if root is not None and not root.is_dir():
            raise ConfigError(f"{key} {root} is not a folder")
        self.table = table
        self.root = table.parent if root is None else root
        self._root_name = f"the folder of the table, {self.root}" if root is None else f"{key} {root}"
        self._fix = f"; paths start there. Set {key} to a folder that holds all files" if root is None else ""
        self._roots = tuple({os.path.abspath(self.root): 0, os.path.realpath(self.root): 0})

    def of(self, row: Row, column: str, location: str) -> str:
        """The path in a column, relative to the root, with ``/``; or a contained file, where the cell has its bytes.

        Args:
            row: of the table.
            column: of the path.
            location: of the row, ``FILE:LINE``, for messages.

        Raises:
            ConfigError: the path is missing, or leads out of the root.
        """
        name = row.get(column)
        if isinstance(name, FileCell):
            row_name = f"{self.table.name}:{location.rpartition(':')[2]}"
            return ContainedFile(name.name or row_name, name.source, name.key)
        if is_missing(name):
            raise ConfigError(f"{location}: the value of {column!r} is {lacking(row, column)}; expected a path")
        if not isinstance(name, str) or "\0" in name:
            raise ConfigError(f"{location}: {column} must be a path, got {name!r:.80}")
        given = name.replace("\\", "/") if os.name == "nt" else name
        if os.name != "nt" and _SPECIAL_COMPONENTS.isdisjoint(given.split("/")):
            return given
        path = PurePosixPath(given)
        if path.is_absolute() or Path(name).drive:
            inside = next((_relative(given, root) for root in self._roots if _relative(given, root)), None)
            if inside is None:
                raise ConfigError(f"{location}: path {name!r} leads out of {self._root_name}{self._fix}")
            return inside
        if ".." in path.parts:
            given = os.path.normpath(given)
            if given.startswith(".."):
                raise ConfigError(f"{location}: path {name!r} leads out of {self._root_name}{self._fix}")
        normalized = PurePosixPath(given).as_posix()
        if normalized == ".":
            raise ConfigError(f"{location}: {column} must be the path of a file, got {name!r}")
        return normalized


def path_of(row: Row, column: str, location: str) -> str:
    """The path in a column, relative to the table's folder, with ``/``.

    Args:
        row: of the table.
        column: of the path.
        location: of the row, ``FILE:LINE``.

    Raises:
        ConfigError: the path is missing, or leads out of the folder.
    """
    return Paths(Path(location.rpartition(":")[0])).of(row, column, location)


def _relative(path: str, root: str) -> str | None:
    path = os.path.normpath(path)
    if path.startswith("//"):  # as POSIX leaves it
        path = path[1:]
    prefix = root if root.endswith("/") else root + "/"
    return path[len(prefix) :] if path.startswith(prefix) and len(path) > len(prefix) else None


def _check_file(file: Path, key: str) -> None:
    try:
        kind = special(file.stat().st_mode)
    except (OSError, ValueError) as error:
        near = nearly(file.parent, file.name)
        raise ConfigError(f"{key} {file}: no such file{f'; {near}' if near else ''}") from error
    if kind is not None:
        raise ConfigError(f"{key} {file} is {kind}, not a file")


@contextmanager
def _bytes_of(file: Path, packing: str) -> Iterator[Any]:
    try:
        with _COMPRESSED[packing](file) as raw:
            yield raw
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{file} is damaged, or not compressed as its suffix says: {error}; create it again"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def _text_of(raw: Any, file: Path) -> Iterator[Iterator[str]]:
    """The lines with their ends. They are checked one by one, so that errors name the line."""
    start = raw.peek(8)[:8]
    if not start:
        raise ConfigError(f"{file} is empty")
    if format_hint := next((hint for magic, hint in _MAGIC if start.startswith(magic)), None):
        raise ConfigError(f"{file} is no text but {format_hint}")
    bom, encoding = next((entry for entry in _BOMS if start.startswith(entry[0])), (b"", "utf-8"))
    if encoding == "utf-8":
        raw.read(len(bom))
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    with io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="") as text:
        yield _checked(text, file, encoding)


def _checked(text: io.TextIOWrapper, file: Path, encoding: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        try:
            line = text.readline(MAX_CELL + 1)
        except UnicodeError as error:
            raise ConfigError(
                f"{file}: from line {number} on it is not {encoding}: {error}; save it as UTF-8"
            ) from error
        if not line:
            return
        if len(line) > MAX_CELL:
            raise ConfigError(f"{file}:{number} has more than {MAX_CELL:,} characters; is it a table?")
        if not line.isascii() and encoding == "utf-8" and (wrong := _INVALID.search(line)):
            byte, start = ord(wrong[0]) - 0xDC00, line[max(0, wrong.start() - 20) : wrong.start()]
            raise ConfigError(
                f"{file}:{number} is not UTF-8: byte 0x{byte:02x} after {start!r}; save the table as UTF-8"
            )
        if "\0" in line and encoding == "utf-8":
            raise ConfigError(f"{file}:{number} has a null byte: it is no text, or UTF-16; save it as UTF-8")
        yield line


def _read_table(lines: Iterator[str], file: Path, delimiter: str) -> Iterator[tuple[int, Row]]:
    quoting: Any = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    named: list[int] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            opened = "; a quote that opens there is not closed" if "unexpected end" in str(error) else ""
            raise ConfigError(f"{file}:{start} cannot be read: {error}{opened}") from error
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = _header(cells, file, start)
            # No setting can name a column without a name, such as one of row numbers.
            named = [index for index, name in enumerate(header) if name.strip()]
            continue
        if len(cells) > len(header):
            quote = "; cells with a comma in them need quotes" if delimiter == "," else ""
            raise ConfigError(
                f"{file}:{start} has more columns than the header: {len(cells)}, not {len(header)}{quote}"
            )
        row = _Cells((header[index], cells[index] if index < len(cells) else None) for index in named)
        row.cells = len(cells)
        yield start, row
    if header is None:
        raise ConfigError(f"{file} is empty; the first line must name the columns")


def _header(cells: list[str], file: Path, number: int) -> list[str]:
    """Validates the names of the columns."""
    named = [cell for cell in cells if cell.strip()]
    if duplicate := next((name for name in named if named.count(name) > 1), None):
        numbers = ", ".join(str(number) for number, name in enumerate(cells, 1) if name == duplicate)
        raise ConfigError(f"{file}:{number} has the column {duplicate!r} twice (columns {numbers}); rename one of them")
    if not named:
        raise ConfigError(f"{file}:{number} names no columns; the first line must")
    return cells


def _read_jsonl(lines: Iterator[str], file: Path) -> Iterator[tuple[int, Row]]:
    empty = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        empty = False
        try:
            row = json.loads(line, object_pairs_hook=_unique_keys)
        except RecursionError as error:
            raise ConfigError(f"{file}:{number} is JSON nested too deeply") from error
        except ValueError as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{file}:{number} must be an object, got {type(row).__name__}")
        yield number, row
    if empty:
        raise ConfigError(f"{file} is empty")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {printable(duplicate)!r} is there twice")
    return value
