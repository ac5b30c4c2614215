"""Columns of tables with a row a sample: classes, splits and times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrt_mm.errors import ConfigError
from hrt_mm.tables import Row, path_of, rows_of

from .splits import SPLIT_NAMES

__all__ = ["Row", "label_of", "number_of", "path_of", "read_rows", "seconds_of", "split_of"]


def read_rows(file: Path, columns: Sequence[str], keys: str) -> Iterator[tuple[int, Row]]:
    """The rows of a table with the lines that they stand on.

    Args:
        file: the table; the ending of its name says which kind.
        columns: what each row must have.
        keys: the settings that name columns, for messages.

    Raises:
        ConfigError: the file is missing or is no such table, or a row lacks a column; names the line.
    """
    for number, row in rows_of(file, "data.file"):
        if missing := [column for column in columns if row.get(column) is None]:
            have = ", ".join(str(key) for key in row if key is not None)
            raise ConfigError(f"{file}:{number} has no column {missing[0]!r}; it has {have}. Set {keys}")
        yield number, row


def label_of(row: Row, column: str | None, place: str) -> str | None:
    """The name of a class; ``None`` without a column.

    Raises:
        ConfigError: it is neither a name nor a whole number.
    """
    if column is None:
        return None
    label = row[column]
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise ConfigError(f"{place}: {column} must be a name or a whole number, got {label!r}")
    return str(label)


def split_of(row: Row, column: str | None, place: str) -> str:
    """The split of a row; ``train`` without a column.

    Raises:
        ConfigError: there is no such split.
    """
    if column is None:
        return "train"
    split = row[column]
    if not isinstance(split, str) or split not in SPLIT_NAMES:
        raise ConfigError(f"{place}: {column} must be train, val or test, got {split!r}")
    return SPLIT_NAMES[split]


def seconds_of(row: Row, column: str | None, place: str) -> float | None:
    """A time in seconds; ``None`` without a column.

    Raises:
        ConfigError: it is no number.
    """
    return None if column is None else number_of(row[column], column, place)


def number_of(found: Any, column: str, place: str) -> float:
    """A value of a column as seconds.

    Raises:
        ConfigError: it is no number.
    """
    try:
        if isinstance(found, bool):
            raise ValueError
        return float(found)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {column} must be a number of seconds, got {found!r:.60}") from error
