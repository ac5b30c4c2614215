"""Draws the hierarchy of the README, for light and dark pages: ``python docs/assets/draw_hierarchy.py``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

TEXT = "Patches make regions. Bytes make words."
FOLDER = Path(__file__).parent

CELL = 17
HEIGHT = 26
LEFT = 118
TOP = 12
GAP = 62
WINDOW = 8
"""Bytes that attend to each other in the picture."""


class Theme(NamedTuple):
    """Colours of a drawing."""

    ink: str
    quiet: str
    levels: tuple[str, str, str]
    """From fine to coarse."""
    on_level: str


THEMES = {
    "light": Theme("#1f2328", "#59636e", ("#0969da", "#1a7f37", "#8250df"), "#ffffff"),
    "dark": Theme("#f0f6fc", "#9198a1", ("#4493f8", "#3fb950", "#ab7df8"), "#0d1117"),
}


def groups(starts: str, text: str) -> list[tuple[int, int]]:
    """Runs of ``text`` that begin at 0 and behind each match of ``starts``."""
    edges = [0, *(match.end() for match in re.finditer(starts, text)), len(text)]
    return [(first, last) for first, last in pairwise(edges) if last > first]


def drawing(theme: Theme) -> str:
    """The picture as SVG."""
    words, sentences = groups(r" ", TEXT), groups(r"\. ", TEXT)
    rows = [TOP + level * (HEIGHT + GAP) for level in (2, 1, 0)]
    middle = [LEFT + CELL * (first + last) / 2 for first, last in words]
    tops = [LEFT + CELL * (first + last) / 2 for first, last in sentences]
    parts = [
        *(_funnel(LEFT + CELL * a, LEFT + CELL * b, rows[0], x, 68, rows[1], theme.levels[0])
          for (a, b), x in zip(words, middle, strict=True)),
        *(_funnel(min(inside) - 34, max(inside) + 34, rows[1], x, 150, rows[2], theme.levels[1])
          for x, inside in ((x, _inside(span, words, middle)) for span, x in zip(sentences, tops, strict=True))),
        *(_box(LEFT + CELL * index + 1, rows[0], CELL - 2, "␣" if letter == " " else letter, theme.levels[0], theme)
          for index, letter in enumerate(TEXT)),
        *(_box(x - 34, rows[1], 68, TEXT[a:b].strip(), theme.levels[1], theme)
          for (a, b), x in zip(words, middle, strict=True)),
        *(_box(x - 75, rows[2], 150, f"sentence {number}", theme.levels[2], theme) for number, x in enumerate(tops, 1)),
    ]  # fmt: skip
    width = LEFT + CELL * len(TEXT) + 146
    for name, row, count, reach, colour in zip(
        ("bytes", "words", "sentences"), rows, (len(TEXT), len(words), len(sentences)),
        ("attend in windows", "attend in windows", "attend to all"), theme.levels, strict=True,
    ):  # fmt: skip
        parts += [
            _label(LEFT - 14, row + 12, name, colour, "end", 15, "600"),
            _label(LEFT - 14, row + 27, f"{count} tokens", theme.quiet, "end", 12),
            _label(width - 136, row + 18, reach, theme.quiet, "start", 12),
        ]
    left = LEFT + CELL * 12
    parts += [
        _bracket(left, left + CELL * WINDOW, rows[0] + HEIGHT + 5, theme.levels[0]),
        _label(left + CELL * WINDOW / 2, rows[0] + HEIGHT + 27, "a window", theme.quiet, "middle", 12),
    ]
    for low, high in ((rows[0], rows[1]), (rows[1], rows[2])):
        parts += [
            _arrow(width - 130, low - 12, high + HEIGHT + 12, theme.ink),
            _label(width - 121, (low + high + HEIGHT) / 2 + 4, "pool", theme.ink, "start", 12),
            _arrow(width - 82, high + HEIGHT + 12, low - 12, theme.ink),
            _label(width - 73, (low + high + HEIGHT) / 2 + 4, "inform", theme.ink, "start", 12),
        ]
    height = rows[0] + HEIGHT + 38
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="ui-sans-serif, system-ui, sans-serif">\n'
        "<title>Bytes are pooled into words and words into sentences; coarse levels inform fine ones.</title>\n"
        f"{body}\n</svg>\n"
    )


def _inside(span: tuple[int, int], words: Sequence[tuple[int, int]], middle: Sequence[float]) -> list[float]:
    """The positions of the words that lie in a sentence."""
    return [x for (first, _), x in zip(words, middle, strict=True) if span[0] <= first < span[1]]


def _funnel(left: float, right: float, low: float, x: float, width: float, high: float, colour: str) -> str:
    """A group of a level, narrowing to its token at the next one."""
    points = f"{left + 1},{low} {right - 1},{low} {x + width / 2},{high + HEIGHT} {x - width / 2},{high + HEIGHT}"
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="0.16"/>'


def _box(x: float, y: float, width: float, text: str, colour: str, theme: Theme) -> str:
    """A token."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="4" fill="{colour}"/>'
        f'<text x="{x + width / 2}" y="{y + 18}" text-anchor="middle" font-size="13" fill="{theme.on_level}" '
        f'font-family="ui-monospace, monospace">{escape(text)}</text>'
    )


def _label(x: float, y: float, text: str, colour: str, anchor: str, size: int, weight: str = "400") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _bracket(left: float, right: float, y: float, colour: str) -> str:
    return f'<path d="M{left + 1} {y}v6H{right - 1}v-6" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _arrow(x: float, start: float, end: float, colour: str) -> str:
    """A vertical arrow."""
    back = 6 if end < start else -6
    path = f"M{x} {start}V{end}M{x - 4} {end + back}L{x} {end}L{x + 4} {end + back}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def main() -> None:
    """Writes both pictures."""
    for name, theme in THEMES.items():
        (FOLDER / f"hierarchy-{name}.svg").write_text(drawing(theme), encoding="utf-8")


if __name__ == "__main__":
    main()
