"""Tables with a row a sample: CSV and TSV with a header, and JSONL. No path that they name leads out of a folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import ConfigError

Row = Mapping[str, Any]


def rows_of(file: Path, key: str) -> Iterator[tuple[int, Row]]:
    """The rows of a table with the lines that they stand on.

    Args:
        file: the table; the ending of its name says which kind.
        key: the setting that names it, for messages.

    Raises:
        ConfigError: the file is missing or is no such table; names the line.
    """
    readers = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl}
    if file.suffix.lower() not in readers:
        raise ConfigError(f"{key} {file} must end in {', '.join(readers)}")
    if not file.is_file():
        raise ConfigError(f"{key} {file}: no such file")
    yield from readers[file.suffix.lower()](file)


def path_of(row: Row, column: str, place: str) -> str:
    """A path inside the table's folder, with ``/``.

    Raises:
        ConfigError: it is none, or leads out.
    """
    name = row[column]
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError(f"{place}: {column} must be a path, got {name!r}")
    path = PurePosixPath(name.replace("\\", "/") if os.name == "nt" else name)
    if path.is_absolute() or ".." in path.parts or Path(name).drive:
        raise ConfigError(f"{place}: path {name!r} leads out of the folder of the table; paths start there")
    return path.as_posix()


def _read_csv(file: Path) -> Iterator[tuple[int, Row]]:
    return _read_table(file, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(file: Path) -> Iterator[tuple[int, Row]]:
    return _read_table(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(file: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, Row]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ConfigError(f"{file}:{reader.line_num} has more columns than the header")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}:{reader.line_num + 1} cannot be read: {error}") from error


def _read_jsonl(file: Path) -> Iterator[tuple[int, Row]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{file}:{number} must be an object, got {type(row).__name__}")
            yield number, row
