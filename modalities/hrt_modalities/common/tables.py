"""Columns of tables with one row per sample: classes, splits and times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.splits import split_name_forms
from hrt_mm.data.tables import Paths, Row, is_missing, lacking, path_of, rows_of

from .split_names import SplitNames

__all__ = [
    "Paths",
    "Row",
    "SplitColumn",
    "label_of",
    "labels_of",
    "number_of",
    "numbers_of",
    "path_of",
    "read_rows",
    "seconds_of",
    "split_of",
]


_SPLIT_KEY = "Set data.split_column to a column of splits, or to null for splits that are made of the rows"

_LABEL_KEY = "Set data.label_column to a column of labels, or to null if there is none"


def read_rows(
    file: Path,
    columns: Sequence[str],
    keys: str,
    *,
    split_column: str | None = None,
    label_columns: Sequence[str] = (),
) -> Iterator[tuple[int, Row]]:
    """The rows of a table with their line numbers.

    Args:
        file: the table, whose suffix gives its format.
        columns: that must have a value in each row; an empty cell of CSV is one.
        keys: the settings that name columns, for messages.
        split_column: one of ``columns``, which the setting of this name gives and which may be null.
        label_columns: the same.

    Raises:
        ConfigError: the file is missing or not such a table, has no rows or lacks a column, or a row has no value in
            it; names the line.
    """
    rows = rows_of(file, "data.file")
    fixes: dict[str | None, str] = {split_column: _SPLIT_KEY}
    fixes.update(dict.fromkeys(label_columns, _LABEL_KEY))
    seen: dict[str, None] = {}
    empty = True
    for number, row in rows:
        empty = False
        for column in columns:
            if row.get(column) is None:
                if column not in row and column not in seen:
                    _refuse_absent(file, number, row, column, fixes.get(column, f"Set {keys}"), rows)
                raise ConfigError(f"{file}:{number}: the value of {column!r} is {lacking(row, column)}; fill it in")
        if len(seen) < len(row):
            seen |= dict.fromkeys(row)
        yield number, row
    if empty:
        raise ConfigError(f"{file} has no rows")


def _refuse_absent(file: Path, number: int, row: Row, column: str, fix: str, rest: Iterable[tuple[int, Row]]) -> None:
    """Refuses a table without a column; returns if later rows of JSONL have it."""
    if any(column in other for _, other in rest):
        return
    have = list(row)
    near = [name for name in have if name.strip().casefold() == column.strip().casefold()]
    hint = f"; {near[0]!r} is there: spaces or case differ" if near else ""
    if len(have) == 1 and not near:
        marks = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
        parted = next((word for mark, word in marks.items() if mark in have[0]), None)
        hint = f"; it seems to have {parted} between columns, which files of this name do not" if parted else ""
    available = ", ".join(have)
    raise ConfigError(f"{file}:{number} has no column {column!r}; it has {available}{hint}. {fix}")


def label_of(row: Row, column: str | None, location: str) -> str | None:
    """The name of a class; ``None`` without a column.

    Raises:
        ConfigError: it is missing, or neither a name nor an integer.
    """
    if column is None:
        return None
    label = row.get(column)
    if is_missing(label):
        raise ConfigError(
            f"{location}: the value of {column!r} is {lacking(row, column)}; expected the name of a class"
        )
    if isinstance(label, float) and label.is_integer():
        # Programs such as pandas write integers as 3.0 if the column had a missing value.
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise ConfigError(f"{location}: {column} must be a name or a whole number, got {label!r:.80}")
    return printable(str(label))


def labels_of(row: Row, column: str, separator: str, location: str) -> tuple[str, ...]:
    """The names of several classes, each once; none for an empty cell or list.

    Args:
        row: of the table.
        column: of the names.
        separator: between the names in a cell that is a text.
        location: the table and the line.

    Raises:
        ConfigError: the cell is missing, or is neither names nor whole numbers.
    """
    value = row.get(column)
    parts: Any = value
    if isinstance(value, str):
        parts = [part for part in (part.strip() for part in value.split(separator)) if part]
    elif not isinstance(value, list | tuple):
        parts = None if is_missing(value) else [value]
    if parts is None or any(isinstance(part, bool) or not isinstance(part, str | int) for part in parts):
        raise ConfigError(
            f"{location}: {column} must be names of classes with {separator!r} between, or a list of them, got "
            f"{value!r:.80}"
        )
    return tuple(dict.fromkeys(printable(str(part)) for part in parts))


def numbers_of(row: Row, columns: Sequence[str], separator: str, location: str) -> tuple[float, ...]:
    """The numbers of one or several columns, one after another.

    Args:
        row: of the table.
        columns: of numbers, or of several numbers each.
        separator: between numbers in a cell that is a text.
        location: the table and the line.

    Raises:
        ConfigError: a cell is missing, or is no finite number.
    """
    numbers: list[float] = []
    for column in columns:
        value = row.get(column)
        if is_missing(value):
            raise ConfigError(f"{location}: the value of {column!r} is {lacking(row, column)}; expected a number")
        parts = value.split(separator) if isinstance(value, str) else value if isinstance(value, list) else [value]
        numbers += [number_of(part, column, location, "a number") for part in parts]
    return tuple(numbers)


def split_of(row: Row, column: str | None, location: str) -> str:
    """The split of a row; ``train`` without a column.

    Raises:
        ConfigError: there is no such split.
    """
    return SplitColumn(column, "the table").of(row, location)


class SpanColumns(Component):
    """Columns of the part of a file that a row describes; without them, rows describe whole files."""

    offset_column: str | None = None
    """Column of the seconds at which a part of the file begins."""
    duration_column: str | None = None
    """Column of the duration of the part, in seconds."""
    end_column: str | None = None
    """Column of the seconds at which the part ends, in place of ``duration_column``."""

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.duration_column is not None and self.end_column is not None:
            raise ValueError("duration_column and end_column both tell where a part ends; give one of them")
        return self

    def span(
        self, row: Row, location: str, seconds: Callable[[Row, str | None, str], float | None] | None = None
    ) -> tuple[float, float | None, float | None]:
        """Offset, duration and end of a row's part in seconds; the last two are ``None`` for the end of the file.

        Args:
            row: of the table.
            location: the table and the line.
            seconds: reads a cell; :func:`seconds_of` when absent.

        Raises:
            ConfigError: a cell is no number.
        """
        offset, duration, end = (
            (seconds or seconds_of)(row, column, location)
            for column in (self.offset_column, self.duration_column, self.end_column)
        )
        offset = offset or 0.0
        if end is not None:
            return offset, end - offset, end
        return offset, duration, None if duration is None else offset + duration

    def span_columns(self) -> tuple[str, ...]:
        """The columns that are set."""
        columns = (self.offset_column, self.duration_column, self.end_column)
        return tuple(column for column in columns if column is not None)


SPAN_KEYS = ("offset_column", "duration_column", "end_column")


class SplitColumn:
    """The column of splits of a table; warns about two names for one split.

    Args:
        column: its name; all rows are ``train`` when ``None``.
        where: the table, for messages.
    """

    def __init__(self, column: str | None, where: str) -> None:
        self.column = column
        self._names = SplitNames(where)

    def of(self, row: Row, location: str) -> str:
        """The split of a row.

        Args:
            row: of the table.
            location: the table and the line.

        Raises:
            ConfigError: there is no such split.
        """
        if self.column is None:
            return "train"
        name = row.get(self.column)
        if is_missing(name):
            raise ConfigError(
                f"{location}: the value of {self.column!r} is {lacking(row, self.column)}; expected a split"
            )
        split = self._names.split(name, location) if isinstance(name, str) else None
        if split is None:
            raise ConfigError(
                f"{location}: {self.column} must be train, val or test, got {name!r:.80}; "
                f"known are {split_name_forms()}"
            )
        return split


def seconds_of(row: Row, column: str | None, location: str) -> float | None:
    """A time in seconds; ``None`` without a column.

    Raises:
        ConfigError: it is no number.
    """
    if column is None:
        return None
    if is_missing(row.get(column)):
        raise ConfigError(f"{location}: the value of {column!r} is {lacking(row, column)}; expected seconds")
    return number_of(row[column], column, location)


def number_of(value: Any, column: str, location: str, what: str = "a number of seconds") -> float:
    """A value of a column as a number.

    Args:
        value: of the column.
        column: its name.
        location: the table and the line.
        what: it is, for messages.

    Raises:
        ConfigError: it is no finite number.
    """
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{location}: {column} must be {what}, got {value!r:.60}") from error
