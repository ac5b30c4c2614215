"""Cells and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Bar, Measured


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table. The first column is set left, the others right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def milliseconds(measured: Measured) -> str:
    """Median and quartiles, or why there are none."""
    if measured.seconds is None:
        return measured.note or "not run"
    if measured.quartiles is None:
        return _digits(measured.seconds * 1e3)
    first, third = (_digits(value * 1e3) for value in measured.quartiles)
    return f"{_digits(measured.seconds * 1e3)} ({first} to {third})"


def mebibytes(count: int | None) -> str:
    """Bytes in MiB."""
    return "" if count is None else _digits(count / 2**20)


def times(ratio: float | None) -> str:
    """A ratio, as 3.62x."""
    return "" if ratio is None else f"{_digits(ratio)}x"


def _digits(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bars_table(bars: Sequence[Bar]) -> str:
    """The goals of a benchmark, beside what was measured."""
    body = [[bar.claim, bar.goal, bar.measured, "yes" if bar.met else "**no**"] for bar in bars]
    return markdown(["goal", "target", "measured", "met"], body)
