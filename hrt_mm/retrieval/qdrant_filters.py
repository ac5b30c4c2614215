"""Filters and words of rows for Qdrant: what payloads and sparse vectors hold, and how they are searched.

A payload has under ``columns`` a copy of each column, by its name in hexadecimal, so that names may have any
characters. A copy has what comparisons need: ``key`` for equality, ``number`` or ``date`` for order, and ``text``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import UserError
from .lexical import WORD_WEIGHT, hashed, impacts, terms_of, units_of
from .rows import Row
from .where import ROW_COLUMNS, AllOf, Comparison, Condition, Not, Where, folded, key, number, timestamp

COLUMNS = "columns"
"""The field of a payload with the copies of columns."""
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def columns_of(row: Row, inherited: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The copies of all columns of a row.

    Args:
        row: with its own columns.
        inherited: those of the sample that it is a piece of.
    """
    columns = {_name(f"info.{name}"): value for name, value in {**inherited, **row.info}.items()}
    columns |= {_name(name): str(getattr(row, name)) for name in ROW_COLUMNS}
    copies: dict[str, dict[str, Any]] = {}
    for name, value in columns.items():
        copies[name] = {"key": key(value), "text": folded(value)}
        for kind, parsed in (("number", number(value)), ("date", timestamp(value))):
            if parsed is not None:
                copies[name][kind] = parsed
    return copies


def filter_of(where: Where, models: Any) -> Any:
    """A filter of Qdrant with the same answers.

    Args:
        where: the filter.
        models: of ``qdrant_client``.

    Raises:
        UserError: the filter has ``~``, and the installed qdrant-client cannot search for parts of texts.
    """
    return models.Filter(must=[_condition(where.condition, models)])


def has_column(column: str, models: Any) -> Any:
    """A filter for rows that have a column."""
    return models.Filter(must_not=[_missing(column, "key", models)])


def _condition(condition: Condition, models: Any) -> Any:
    if isinstance(condition, Comparison):
        return _comparison(condition, models)
    if isinstance(condition, Not):
        return models.Filter(must_not=[_condition(condition.condition, models)])
    conditions = [_condition(part, models) for part in condition.conditions]
    return models.Filter(must=conditions) if isinstance(condition, AllOf) else models.Filter(should=conditions)


def _comparison(comparison: Comparison, models: Any) -> Any:
    column = comparison.column
    if comparison.operator == "=":
        match = models.MatchAny(any=[key(value) for value in comparison.values])
        return models.FieldCondition(key=_path(column, "key"), match=match)
    (value,) = comparison.values
    if comparison.operator == "~":
        if not value:
            return has_column(column, models)
        if not hasattr(models, "MatchSubstring"):
            raise UserError("a filter with ~ needs a newer qdrant-client; upgrade it, or compare with = or in")
        match = models.MatchSubstring(substring=folded(value))
        return models.FieldCondition(key=_path(column, "text"), match=match)
    kind, bound = comparison.bound
    values = models.Range(**{_BOUNDS[comparison.operator]: bound})
    return models.FieldCondition(key=_path(column, "number" if kind is number else "date"), range=values)


def _missing(column: str, kind: str, models: Any) -> Any:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=_path(column, kind)))


def _name(column: str) -> str:
    return column.encode("utf-8", "surrogatepass").hex()


def _path(column: str, kind: str) -> str:
    name = column if column in ROW_COLUMNS else f"info.{column.removeprefix('info.')}"
    return f"{COLUMNS}.{_name(name)}.{kind}"


def sparse_of(row: Row) -> tuple[list[int], list[float]]:
    """Terms of a row's texts and their BM25 weights: the highest of its units."""
    weights: dict[int, float] = {}
    for text in units_of(row):
        for term, weight in impacts(terms_of(text)).items():
            weights[term] = max(weights.get(term, 0.0), weight)
    return list(weights), list(weights.values())


def query_weights(text: str) -> dict[int, float]:
    """The terms of a query with their weights, by hash."""
    return {hashed(*term): WORD_WEIGHT if term[1] else 1.0 for term in terms_of(text)}


def share(text: str, units: Iterable[str], factors: Mapping[int, float]) -> float:
    """How well the best of some units matches a query, 0 to 1.

    Args:
        text: the query.
        units: of a row.
        factors: inverse document frequencies of the terms of the query.
    """
    term_impacts = impacts(terms_of(text))
    weights = {term: weight * factors[term] for term, weight in query_weights(text).items()}
    best = sum(weights[term] * term_impacts[term] for term in term_impacts)
    scores = []
    for unit in units:
        there = impacts(terms_of(unit))
        scores.append(sum(weights[term] * there[term] for term in term_impacts if term in there))
    return min(1.0, max(scores, default=0.0) / best) if best else 0.0
