"""Draws texts for reports.

Shapes: T tokens.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import Tokenizer

from .text import char_offsets, decoded
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT = "monospace"
_NARROW, _LARGEST = 4.2, 8.0
"""Least width of a character and largest font size, in points."""
_SIGNS = {"\n": "↵", "\r": "←", "\t": "→"}
_UNKNOWN = "□"
_INK, _FAINT = "#222222", "#8a8a8a"


def draw_text(axes: Axes, tokenizer: Tokenizer, tokens: Tokens) -> None:
    """Draws the beginning of a text that is legible, each token in a unit cell. Separators are grey cells.

    Args:
        axes: to draw into.
        tokenizer: of the tokens.
        tokens: of one text.
    """
    assert isinstance(tokenizer, TextTokenizer)
    raw = [tokenizer.raw(token) for token in tokens.x.tolist()]
    density = max(1.0, sum(map(len, raw)) / max(1, len(raw)))
    width = 72 * axes.bbox.width / axes.figure.dpi
    count = max(1, min(len(raw), int(width / _NARROW / density)))
    room = width / count
    for index in [index for index in range(count) if not raw[index]]:
        axes.axvspan(index, index + 1, color=_FAINT, alpha=0.6, linewidth=0)
    for char, middle, share in _characters(raw[:count]):
        sign, color = _sign(char)
        size = min(_LARGEST, 1.6 * room * share / len(sign))
        axes.text(middle, 0.5, sign, size=size, color=color, ha="center", va="center", parse_math=False, family=_FONT)
    axes.set_xlim(0, count)
    axes.set_ylim(0, 1)
    axes.set_yticks([])


def _characters(raw: list[bytes]) -> list[tuple[str, float, float]]:
    """Each character with its centre and its width in cells."""
    characters = []
    edges = [-1, *[index for index, piece in enumerate(raw) if not piece], len(raw)]
    for first, last in zip([edge + 1 for edge in edges], edges[1:], strict=False):
        if first == last:
            continue
        content = b"".join(raw[first:last])
        text, _ = decoded(content)
        ends = np.cumsum([0, *map(len, raw[first:last])])
        borders = np.interp(char_offsets(text), ends, np.arange(first, last + 1))
        characters += list(zip(text, (borders[1:] + borders[:-1]) / 2, np.diff(borders), strict=True))
    return characters


def _sign(char: str) -> tuple[str, str]:
    """The drawn form of a character and its colour: the character itself if the font has it."""
    if char in _SIGNS:
        return _SIGNS[char], _FAINT
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"{ord(char) - 0xDC00:02x}", _FAINT
    if char == " " or (char.isprintable() and ord(char) in _glyphs()):
        return char, _INK
    return (f"{ord(char):02x}" if ord(char) < 256 else _UNKNOWN), _FAINT


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=_FONT))).get_charmap())
