"""Columns of a segment's rows, and the rows that a filter matches.

Shapes: N rows, V distinct values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .rows import Row
from .where import AllOf, Comparison, Condition, Not, value_of


@dataclass(frozen=True)
class Column:
    """The values of a column. Each distinct one is stored, and compared with filters, once.

    Args:
        values: the distinct ones.
        index_N: int32, the index of each row's value; -1 if it has none.
    """

    values: list[str]
    index_N: np.ndarray


def read_columns(
    names: Iterable[str], rows: Iterable[Row], inherited: Callable[[Row], Mapping[str, str]]
) -> dict[str, Column]:
    """Reads columns, all in one pass over the rows.

    Args:
        names: of the columns, as filters name them.
        rows: of a segment, in order.
        inherited: gives the columns of the sample that a row is a piece of.
    """
    columns: dict[str, tuple[dict[str, int], list[int]]] = {name: ({}, []) for name in names}
    for row in rows:
        from_sample = inherited(row)
        for name, (numbers, index) in columns.items():
            value = value_of(row, name, from_sample)
            index.append(-1 if value is None else numbers.setdefault(value, len(numbers)))
    return {name: Column(list(numbers), np.array(index, np.int32)) for name, (numbers, index) in columns.items()}


def matching(condition: Condition, columns: Mapping[str, Column]) -> np.ndarray:
    """(N,) bool, the rows that meet a condition.

    Args:
        condition: of a filter.
        columns: all that it names.
    """
    if isinstance(condition, Comparison):
        column = columns[condition.column]
        # The last is of rows without a value, whose index is -1.
        accepted_V1 = np.array([*map(condition.accepts, column.values), condition.accepts(None)], bool)
        accepted_N: np.ndarray = accepted_V1[column.index_N]
        return accepted_N
    if isinstance(condition, Not):
        return ~matching(condition.condition, columns)
    combine = np.logical_and if isinstance(condition, AllOf) else np.logical_or
    first, *others = condition.conditions
    combined_N = matching(first, columns)
    for part in others:
        combine(combined_N, matching(part, columns), out=combined_N)
    return combined_N
