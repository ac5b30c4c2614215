"""The description of a hierarchy as text."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 120
_COLUMNS = ("level", "tokens", "width", "depth", "window", "groups", "parameters", "FLOPs", "FLOPs/step", "memory")
_LEFT = ("level", "window", "groups")


def table(rows: Iterable[tuple[str, ...]], footers: Iterable[tuple[str, ...]]) -> str:
    """Rows of a level each, a line, and the sums."""
    grid = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for name in _COLUMNS:
        grid.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    grid.add_section()
    for row in footers:
        grid.add_row(*row)
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(grid)
    text = console.file
    assert isinstance(text, io.StringIO)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def count(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}"


def flops(number: int) -> str:
    """A number of FLOPs to three digits, with its unit: 7.77M, 39.3G, 2.95T."""
    return _with_unit(number, 1000, ("", "k", "M", "G", "T", "P"))


def size(number: int) -> str:
    """A number of bytes to three digits, with its unit: 383 KiB, 944 MiB."""
    return _with_unit(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _with_unit(number: float, step: int, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit + 1 < len(units):
        number, unit = number / step, unit + 1
    digits = 0 if number >= 99.95 or not unit else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f}{units[unit]}"
