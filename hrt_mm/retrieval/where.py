"""Filters over rows: ``year>=2010 and colour in (red, 'dark red')``.

.. code-block:: text

    filter     = both ("or" both)*
    both       = negation ("and" negation)*
    negation   = "not" negation | "(" filter ")" | comparison
    comparison = column ("=" | "!=" | "<" | "<=" | ">" | ">=" | "~") value
               | column ["not"] "in" "(" value ("," value)* ")"

Columns are those of a row's ``info``, and ``id``, ``tower`` and ``level``; ``info.id`` is a column of that name in
``info``. Columns and values that contain spaces, quotes, commas, parentheses or characters of operators are written in
single or double quotes, in which the quote itself is written twice.

- Two values are equal if both are numbers of the same value (``2010`` and ``2.01e3``), both are ISO dates of the same
  instant, or their texts are equal apart from case.
- ``<``, ``<=``, ``>`` and ``>=`` compare numbers with numbers and dates with dates. A date without a time is its
  midnight, and without a zone it is in UTC. Values of another kind never match.
- ``~`` matches values that contain the text, apart from case.
- A row without the column matches no comparison; ``!=`` and ``not in`` are the opposites of ``=`` and ``in``, so they
  match it.
"""

from __future__ import annotations

import difflib
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

from ..core.errors import UserError
from .rows import Row

MAX_LENGTH = 10_000
"""Maximum characters of a filter."""
MAX_DEPTH = 50
"""Maximum nesting of parentheses and ``not``."""
ROW_COLUMNS = ("id", "tower", "level")
"""Columns that every row has."""
ORDERINGS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = ("=", "!=", *ORDERINGS, "~")

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<operator>[=!<>~]+)
      | (?P<mark>[(),])
      | '(?P<single>(?:[^']|'')*)'
      | "(?P<double>(?:[^"]|"")*)"
      | (?P<word>[^\s'"(),=!<>~]+)""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{3}|\.\d{6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII | re.IGNORECASE
)


@lru_cache(65_536)
def number(text: str) -> float | None:
    """The value of a decimal number; ``None`` for other texts, and beyond the range of float64."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) < float("inf") else None


@lru_cache(65_536)
def timestamp(text: str) -> float | None:
    """Seconds since 1970 of an ISO date, with or without a time; ``None`` for other texts."""
    if not _DATE.fullmatch(text):
        return None
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def folded(text: str) -> str:
    """The text for comparisons apart from case."""
    return unicodedata.normalize("NFC", text.casefold())


@lru_cache(65_536)
def key(text: str) -> str:
    """Equal for values that ``=`` treats as equal."""
    if number(text) is not None:
        sign, digits, exponent = Decimal(text).as_tuple()
        assert isinstance(exponent, int)
        significant = "".join(map(str, digits)).lstrip("0")
        stripped = significant.rstrip("0")
        if not stripped:
            return "0"
        return f"{'-' if sign else ''}{stripped}e{exponent + len(significant) - len(stripped)}"
    if (seconds := timestamp(text)) is not None:
        return f"T{seconds!r}"  # in upper case, which no folded text has
    return folded(text)


@dataclass(frozen=True)
class Comparison:
    """A column compared with values.

    Args:
        column: its name.
        operator: ``=`` for any of the values, one of :data:`ORDERINGS`, or ``~``.
        values: to compare with; one, except for ``=``.
        position: of the column in the filter's text, for messages.
    """

    column: str
    operator: str
    values: tuple[str, ...]
    position: int

    def accepts(self, value: str | None) -> bool:
        """Whether a row with this value of the column matches."""
        if value is None:
            return False
        if self.operator == "=":
            return any(key(value) == key(other) for other in self.values)
        (other,) = self.values
        if self.operator == "~":
            return folded(other) in folded(value)
        kind, bound = self.bound
        converted = kind(value)
        return converted is not None and ORDERINGS[self.operator](converted, bound)

    @property
    def bound(self) -> tuple[Callable[[str], float | None], float]:
        """The value of an ordering, and how values of rows are read for it: :func:`number` or :func:`timestamp`."""
        (other,) = self.values
        for kind in (number, timestamp):
            if (bound := kind(other)) is not None:
                return kind, bound
        raise AssertionError(other)


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    condition: Condition


@dataclass(frozen=True)
class AllOf:
    """Several conditions, all of which must hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """Several conditions, one of which must hold."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Comparison | Not | AllOf | AnyOf


@dataclass(frozen=True)
class Where:
    """A parsed filter.

    Args:
        text: as written.
        condition: that rows must meet.
    """

    text: str
    condition: Condition

    @classmethod
    def parse(cls, text: str) -> Where:
        """Parses a filter.

        Raises:
            UserError: it is empty, too long or malformed; shows the position and what is allowed there.
        """
        if len(text) > MAX_LENGTH:
            raise UserError(f"the filter has {len(text):,} characters; it may have {MAX_LENGTH:,}")
        return cls(text, _Parser(text).parsed())

    def __str__(self) -> str:
        return self.text

    def matches(self, row: Row, inherited: Mapping[str, str] | None = None) -> bool:
        """Whether a row meets the condition.

        Args:
            row: to check.
            inherited: columns of the sample that the row is a piece of, which apply where it has none of that name.
        """
        return _holds(self.condition, lambda column: value_of(row, column, inherited or {}))

    def comparisons(self) -> Iterator[Comparison]:
        """All comparisons, in no particular order."""
        pending = [self.condition]
        while pending:
            condition = pending.pop()
            if isinstance(condition, Comparison):
                yield condition
            elif isinstance(condition, Not):
                pending.append(condition.condition)
            else:
                pending += condition.conditions

    def check(self, columns: Collection[str]) -> None:
        """Refuses columns that no row has.

        Args:
            columns: of ``info``, of all rows.

        Raises:
            UserError: lists the columns, and those with a similar name.
        """
        for comparison in sorted(self.comparisons(), key=lambda comparison: comparison.position):
            name = comparison.column
            if name in ROW_COLUMNS or name.removeprefix("info.") in columns:
                continue
            known = [*ROW_COLUMNS, *sorted(columns)]
            similar = difflib.get_close_matches(name, known, 3, 0.6)
            hint = f" (did you mean {' or '.join(similar)}?)" if similar else ""
            listed = ", ".join(known[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
            raise _error(self.text, comparison.position, f"no row has a column {name!r}{hint}; columns are {listed}")


def value_of(row: Row, column: str, inherited: Mapping[str, str]) -> str | None:
    """The value of a column of a row; ``None`` if it has none."""
    if column in ROW_COLUMNS:
        return str(getattr(row, column))
    name = column.removeprefix("info.")
    value = row.info.get(name)
    return inherited.get(name) if value is None else value


def _holds(condition: Condition, value: Callable[[str], str | None]) -> bool:
    if isinstance(condition, Comparison):
        return condition.accepts(value(condition.column))
    if isinstance(condition, Not):
        return not _holds(condition.condition, value)
    if isinstance(condition, AllOf):
        return all(_holds(part, value) for part in condition.conditions)
    return any(_holds(part, value) for part in condition.conditions)


@dataclass(frozen=True)
class _Token:
    """A word, quoted text, operator or mark; the end of the filter is a mark without text."""

    kind: str
    text: str
    position: int

    def is_keyword(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words

    def is_mark(self, text: str) -> bool:
        return self.kind == "mark" and self.text == text

    def __str__(self) -> str:
        return repr(self.text) if self.kind == "quoted" or self.text else "the end"


class _Parser:
    """Recursive descent over the grammar of this module."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.index = 0
        self.depth = 0

    def parsed(self) -> Condition:
        if len(self.tokens) == 1:
            raise UserError("the filter is empty; write one such as year>=2010 and colour=red")
        condition = self._any()
        if not self._next.is_mark(""):
            raise self._expected("'and', 'or' or the end; quote values that contain spaces")
        return condition

    def _tokens(self) -> Iterator[_Token]:
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                character = self.text[position]
                raise _error(self.text, position, f"the quote {character} is not closed")
            kind = str(match.lastgroup)
            text = match[kind]
            if kind in ("single", "double"):
                quote = "'" if kind == "single" else '"'
                kind, text = "quoted", text.replace(2 * quote, quote)
            if kind == "operator" and text not in OPERATORS:
                raise _error(self.text, position, f"{text!r} is no operator; those are {' '.join(OPERATORS)} and in")
            if kind != "space":
                yield _Token(kind, text, position)
            position = match.end()
        yield _Token("mark", "", position)

    @property
    def _next(self) -> _Token:
        return self.tokens[self.index]

    def _take(self) -> _Token:
        token = self._next
        self.index += 1
        return token

    def _accept(self, word: str) -> bool:
        if self._next.is_keyword(word):
            self.index += 1
            return True
        return False

    def _expected(self, what: str) -> UserError:
        return _error(self.text, self._next.position, f"expected {what}, got {self._next}")

    def _any(self) -> Condition:
        conditions = [self._all()]
        while self._accept("or"):
            conditions.append(self._all())
        return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))

    def _all(self) -> Condition:
        conditions = [self._negation()]
        while self._accept("and"):
            conditions.append(self._negation())
        return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))

    def _negation(self) -> Condition:
        if not (self._next.is_keyword("not") or self._next.is_mark("(")):
            return self._comparison()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(self.text, self._next.position, f"parentheses and 'not' may be nested {MAX_DEPTH} deep")
        condition: Condition
        if self._accept("not"):
            condition = Not(self._negation())
        else:
            self._take()
            condition = self._any()
            self._mark(")", "'and', 'or' or ')'")
        self.depth -= 1
        return condition

    def _comparison(self) -> Condition:
        token = self._next
        if token.kind not in ("word", "quoted") or token.is_keyword("and", "or", "in"):
            raise self._expected("a column, 'not' or '('")
        column = self._take().text
        if self._next.is_keyword("not", "in"):
            negated = self._accept("not")
            if not self._accept("in"):
                raise self._expected("'in'")
            comparison = Comparison(column, "=", self._list(), token.position)
            return Not(comparison) if negated else comparison
        if self._next.kind != "operator":
            raise self._expected(f"{' '.join(OPERATORS)} or 'in' after the column {column!r}")
        symbol = self._take().text
        position = self._next.position
        value = self._value()
        if symbol == "!=":
            return Not(Comparison(column, "=", (value,), token.position))
        if symbol in ORDERINGS and number(value) is None and timestamp(value) is None:
            reason = f"{symbol} compares numbers and dates such as 2010, 0.5 and 2024-12-31; {value!r} is neither"
            raise _error(self.text, position, reason)
        return Comparison(column, symbol, (value,), token.position)

    def _list(self) -> tuple[str, ...]:
        self._mark("(", "'(' and values, such as (red, blue)")
        values = [self._value()]
        while self._next.is_mark(","):
            self._take()
            values.append(self._value())
        self._mark(")", "',' or ')'")
        return tuple(values)

    def _value(self) -> str:
        if self._next.kind not in ("word", "quoted") or self._next.is_keyword("and", "or", "not", "in"):
            raise self._expected("a value; quote values that are and, or, not or in")
        return self._take().text

    def _mark(self, text: str, what: str) -> None:
        if not self._next.is_mark(text):
            raise self._expected(what)
        self.index += 1


def _error(text: str, position: int, reason: str) -> UserError:
    """An error with the part of the filter around a position, and a caret below it."""
    first, last = max(0, position - 40), position + 40
    shown = "".join(character if character.isprintable() else " " for character in text[first:last])
    return UserError(
        f"the filter is wrong at character {position + 1}: {reason}\n  {shown}\n  {' ' * (position - first)}^"
    )
