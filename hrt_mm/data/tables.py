"""Tables with a row a sample: CSV and TSV with a header, and JSONL, plain or compressed.

Files are data: no path that they name leads out of a folder, and none is half read.
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
from .files import nearly, special

Row = Mapping[str, Any]

MAX_CELL = 1 << 28
"""Characters of a cell, and of a line of JSONL: a small compressed file can unpack to gigabytes."""
_KINDS = (".csv", ".tsv", ".jsonl")
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
    (b"PAR1", "Parquet: save it as CSV or JSONL"),
)
_COMPRESSED: dict[str, Callable[[Path], Any]] = {
    "": partial(open, mode="rb"),
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_ODD_PARTS = frozenset(("", ".", ".."))
"""Parts of paths that must be looked at: an absolute path begins with an empty one."""
_INVALID = re.compile("[\udc80-\udcff]")

# The limit is one for the whole process; other readers in it are not harmed by a higher one.
csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))


def rows_of(file: Path, key: str) -> Iterator[tuple[int, Row]]:
    """The rows of a table with the lines that they start on.

    A cell of CSV or TSV is a string, or ``None`` where the row is short.

    Args:
        file: the table; the ending of its name says which kind, and how it is compressed: ``.csv``, ``.tsv.gz``.
        key: the setting that names it, for messages.

    Raises:
        ConfigError: the file is missing or empty or is no such table; names the line.
    """
    kind, packing = kind_of(file)
    if kind not in _KINDS or packing not in _COMPRESSED:
        zst = "; Zstandard is not read: unpack it, or use .gz" if packing == ".zst" else ""
        raise ConfigError(f"{key} {file} must end in {', '.join(_KINDS)}, or in .gz, .bz2 or .xz behind these{zst}")
    _check_file(file, key)
    with _bytes_of(file, packing) as raw, _text_of(raw, file) as lines:
        if kind == ".jsonl":
            yield from _read_jsonl(lines, file)
        else:
            yield from _read_table(lines, file, "," if kind == ".csv" else "\t")


def kind_of(file: Path) -> tuple[str, str]:
    """How the name of a table ends, in lower case: its kind, and what says how it is compressed."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz", ".zst"):
        return "".join(suffixes[:-1]), suffixes[-1]
    return "".join(suffixes[-1:]), ""


def lacking(row: Row, column: str) -> str:
    """What is wrong with a value that is not there: "null", "empty", "missing, as the row has only 2 cells"."""
    if column not in row:
        return f"missing, as the row has {', '.join(map(printable, row)) or 'none'}"
    value = row[column]
    if isinstance(value, str):
        return "empty"
    if value is None and (cells := getattr(row, "cells", None)) is not None:
        return f"missing, as the row has only {cells} of {len(row)} cells"
    return "null" if value is None else "NaN"


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: it is absent, null, empty or of spaces alone, or NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Cells(dict[str, Any]):
    """A row of CSV or TSV; ``cells`` is how many it has."""

    cells: int


class Paths:
    """The paths that a table names, each inside a folder.

    Args:
        table: the table.
        root: the folder that paths start at; the table's own when ``None``. A table is not trusted: an absolute path
            must lie inside.
        key: the setting that gives the root, for messages.

    Raises:
        ConfigError: the root is no folder.
    """

    def __init__(self, table: Path, root: Path | None = None, key: str = "data.root") -> None:
        if root is not None and not root.is_dir():
            raise ConfigError(f"{key} {root} is not a folder")
        self.root = table.parent if root is None else root
        self._named = f"the folder of the table, {self.root}" if root is None else f"{key} {root}"
        self._fix = f"; paths start there. Set {key} to a folder that holds all files" if root is None else ""
        self._roots = tuple({os.path.abspath(self.root): 0, os.path.realpath(self.root): 0})

    def of(self, row: Row, column: str, place: str) -> str:
        """The path in a column, from the root, with ``/``.

        Raises:
            ConfigError: there is none, or it leads out.
        """
        name = row.get(column)
        if is_missing(name):
            raise ConfigError(f"{place}: the value of {column!r} is {lacking(row, column)}; expected a path")
        if not isinstance(name, str) or "\0" in name:
            raise ConfigError(f"{place}: {column} must be a path, got {name!r:.80}")
        given = name.replace("\\", "/") if os.name == "nt" else name
        if os.name != "nt" and _ODD_PARTS.isdisjoint(given.split("/")):
            return given
        path = PurePosixPath(given)
        if path.is_absolute() or Path(name).drive:
            inside = next((_relative(given, root) for root in self._roots if _relative(given, root)), None)
            if inside is None:
                raise ConfigError(f"{place}: path {name!r} leads out of {self._named}{self._fix}")
            return inside
        if ".." in path.parts:
            given = os.path.normpath(given)
            if given.startswith(".."):
                raise ConfigError(f"{place}: path {name!r} leads out of {self._named}{self._fix}")
        found = PurePosixPath(given).as_posix()
        if found == ".":
            raise ConfigError(f"{place}: {column} must be the path of a file, got {name!r}")
        return found


def path_of(row: Row, column: str, place: str) -> str:
    """A path inside the table's folder, with ``/``.

    Args:
        row: of the table.
        column: of the path.
        place: the table and the line, ``FILE:LINE``.

    Raises:
        ConfigError: it is none, or leads out.
    """
    return Paths(Path(place.rpartition(":")[0])).of(row, column, place)


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
        raise ConfigError(f"{file} is damaged, or not compressed as its name says: {error}; make it anew") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error


@contextmanager
def _text_of(raw: Any, file: Path) -> Iterator[Iterator[str]]:
    """Lines as they are, with their ends; checked one by one, so that a wrong byte is named with its line."""
    start = raw.peek(8)[:8]
    if not start:
        raise ConfigError(f"{file} is empty")
    if said := next((said for magic, said in _MAGIC if start.startswith(magic)), None):
        raise ConfigError(f"{file} is no text but {said}")
    bom, encoding = next((own for own in _BOMS if start.startswith(own[0])), (b"", "utf-8"))
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
            # A column without a name, as of row numbers, has no setting that could ask for it.
            named = [place for place, name in enumerate(header) if name.strip()]
            continue
        if len(cells) > len(header):
            quote = "; cells with a comma in them need quotes" if delimiter == "," else ""
            raise ConfigError(
                f"{file}:{start} has more columns than the header: {len(cells)}, not {len(header)}{quote}"
            )
        row = _Cells((header[place], cells[place] if place < len(cells) else None) for place in named)
        row.cells = len(cells)
        yield start, row
    if header is None:
        raise ConfigError(f"{file} is empty; the first line must name the columns")


def _header(cells: list[str], file: Path, number: int) -> list[str]:
    """The names of the columns, checked."""
    named = [cell for cell in cells if cell.strip()]
    if twice := next((name for name in named if named.count(name) > 1), None):
        places = ", ".join(str(place) for place, name in enumerate(cells, 1) if name == twice)
        raise ConfigError(f"{file}:{number} has the column {twice!r} twice (columns {places}); rename one of them")
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
            row = json.loads(line, object_pairs_hook=_once)
        except RecursionError as error:
            raise ConfigError(f"{file}:{number} is JSON nested too deeply") from error
        except ValueError as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{file}:{number} must be an object, got {type(row).__name__}")
        yield number, row
    if empty:
        raise ConfigError(f"{file} is empty")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {printable(twice)!r} is there twice")
    return found
