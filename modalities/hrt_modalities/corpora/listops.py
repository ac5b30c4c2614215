"""ListOps: nested operations on lists of digits, after Long Range Arena (arXiv 2011.04006).

An expression is a string with one character a symbol, so that a byte is a token: digits, ``<`` for ``[MIN``, ``>`` for
``[MAX``, ``~`` for ``[MED``, ``+`` for ``[SM`` (the sum modulo 10), and the closing ``]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from hrt_mm.core.errors import ConfigError

CLASSES = tuple("0123456789")
END = "]"
OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "<": min,
    ">": max,
    "~": lambda values: int(median(values)),
    "+": lambda values: sum(values) % 10,
}
NAMES = {"<": "[MIN", ">": "[MAX", "~": "[MED", "+": "[SM"}
_SYMBOLS = {name.encode(): symbol.encode() for symbol, name in NAMES.items()}
_OPERATOR_SHARE = 0.25
_FEWEST_ARGUMENTS = 2


@dataclass(frozen=True)
class Rules:
    """The distribution of expressions.

    Args:
        depth: limit of the nesting, including the digits.
        arguments: limit of the arguments of an operator.
        longer_than: exclusive lower limit of the symbols of an expression.
        shorter_than: exclusive upper limit of its symbols.
    """

    depth: int = 10
    arguments: int = 10
    longer_than: int = 500
    shorter_than: int = 2000


FULL = Rules()
SHORT = Rules(depth=5, longer_than=30, shorter_than=150)


class _TooLongError(Exception):
    pass


class _Tree:
    """A random expression, which is abandoned as soon as it is too long."""

    def __init__(self, random: Random, rules: Rules) -> None:
        self.random, self.rules = random, rules
        self.parts: list[str] = []
        self.length = 0

    def grow(self, depth: int = 1) -> int:
        """Adds a node with all of its descendants, and returns its value."""
        if depth == self.rules.depth or self.random.random() > _OPERATOR_SHARE:
            digit = self._below(10)
            self._add(CLASSES[digit], 1)
            return digit
        self._add("", 2)
        index = len(self.parts) - 1
        count = _FEWEST_ARGUMENTS + self._below(self.rules.arguments - _FEWEST_ARGUMENTS + 1)
        values = [self.grow(depth + 1) for _ in range(count)]
        operator = "<>~+"[self._below(4)]
        self.parts[index] = operator
        self.parts.append(END)
        return OPERATORS[operator](values)

    def _add(self, part: str, length: int) -> None:
        self.length += length
        if self.length >= self.rules.shorter_than:
            raise _TooLongError
        self.parts.append(part)

    def _below(self, count: int) -> int:
        # random() is the only method whose sequence Python guarantees across versions.
        return int(self.random.random() * count)


def expressions(count: int, seed: int, rules: Rules = FULL) -> Iterator[tuple[str, int]]:
    """Unique random expressions with their values, reproducible by seed.

    Args:
        count: their number.
        seed: of the random generator.
        rules: their distribution.
    """
    random, seen = Random(seed), set[str]()
    while len(seen) < count:
        tree = _Tree(random, rules)
        try:
            value = tree.grow()
        except _TooLongError:
            continue
        if tree.length <= rules.longer_than:
            continue
        expression = "".join(tree.parts)
        if expression not in seen:
            seen.add(expression)
            yield expression, value


def evaluate(expression: str) -> int:
    """The value of an expression.

    Raises:
        ValueError: it is none.
    """
    stack: list[tuple[str, list[int]]] = [("", [])]
    for symbol in expression:
        if symbol in OPERATORS:
            stack.append((symbol, []))
        elif symbol == END and len(stack) > 1 and stack[-1][1]:
            operator, values = stack.pop()
            stack[-1][1].append(OPERATORS[operator](values))
        elif symbol in CLASSES:
            stack[-1][1].append(int(symbol))
        else:
            raise ValueError(f"{symbol!r} has no place there in {expression!r:.60}")
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError(f"{expression!r:.60} is not one whole expression")
    return stack[0][1][0]


def starts(expression: str) -> tuple[int, ...]:
    """Positions of operators and of symbols after closing brackets: a group is a run of symbols of one operation."""
    return tuple(
        index
        for index, symbol in enumerate(expression)
        if symbol in OPERATORS or (index and expression[index - 1] == END and symbol != END)
    )


def written(expression: str) -> str:
    """An expression as the original files have it: ``( ( ( [MAX 2 ) 9 ) ] )``."""
    stack: list[list[str]] = [[]]
    for symbol in expression:
        if symbol in OPERATORS:
            stack.append([NAMES[symbol]])
        elif symbol == END:
            head, *arguments = stack.pop()
            stack[-1].append("( " * (len(arguments) + 1) + head + "".join(f" {part} )" for part in [*arguments, END]))
        else:
            stack[-1].append(symbol)
    return stack[0][0]


def read(file: Path) -> Iterator[tuple[str, int]]:
    """Expressions and values of a table, with or without the parentheses of the original.

    Raises:
        ConfigError: the file is missing or is no such table; names the line.
    """
    if not file.is_file():
        raise ConfigError(f"data.root: {file} is missing; write it with hrt-mm data listops --out {file.parent}")
    alphabet = "".join([*CLASSES, *OPERATORS, END]).encode()
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                if line.split() != [b"Source", b"Target"]:
                    raise ConfigError(f"{file}:1 must be 'Source', a tab and 'Target', got {line!r:.60}")
                continue
            source, _, target = line.rstrip().rpartition(b"\t")
            for name, symbol in _SYMBOLS.items():
                source = source.replace(name, symbol)
            source = source.translate(None, b"() ")
            if not source or source.translate(None, alphabet) or len(target) != 1 or not target.isdigit():
                raise ConfigError(f"{file}:{number} is not an expression, a tab and a digit: {line!r:.60}")
            yield source.decode(), int(target)
