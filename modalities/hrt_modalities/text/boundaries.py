"""Starts of words, sentences, paragraphs, sections and lines in a text.

``words`` and ``sentences`` follow the rules and dictionaries of Unicode (UAX #29) in ICU. They also support languages
without spaces, and look ahead. ``spaces`` and ``lines`` depend on each byte and the one before it, so that a causal
hierarchy may group by them.

Shapes: T bytes, C characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from hrt_mm.core.extras import needs_extra

from .text import char_offsets, decoded

if TYPE_CHECKING:
    from icu4py.breakers import BaseBreaker

_PARAGRAPH = re.compile(rb"\n[ \t\r\f\v]*\n\s*|\f\s*|\xe2\x80\xa9\s*")
_ITEM = re.compile(rb"^[ \t]*(?:[-*+]|\xe2\x80\xa2|[0-9]{1,9}[.)])[ \t]", re.MULTILINE)
_HEADING = re.compile(rb"^#{1,6}[ \t]+\S", re.MULTILINE)
_UNDERLINE = re.compile(rb"^([=\-~^*\"'+#:._`])\1{2,}[ \t]*\r?$", re.MULTILINE)
_PAGE = re.compile(rb"\f\s*")
_LINE = ord("\n")
_SPACE_LIKE = np.ones(256, dtype=bool)
_SPACE_LIKE[list(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")] = False
_SPACE_LIKE[0x80:] = False
_ALONE = np.zeros(256, dtype=bool)
_ALONE[0xE3:0xEE] = True
"""Lead bytes of characters from U+3000 to U+DFFF: kana, Han and Hangul, which are written without spaces."""


def space_starts(previous: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Whether a word starts at a byte: a letter or digit after another byte (SpaceByte, arXiv 2404.14408).

    Each character of kana, Han and Hangul starts a group.
    """
    starts: np.ndarray = (~_SPACE_LIKE[here] & _SPACE_LIKE[previous]) | _ALONE[here]
    return starts


def line_starts(previous: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Whether a line starts at a byte, after a line break."""
    starts: np.ndarray = previous == _LINE
    return starts


CAUSAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"spaces": space_starts, "lines": line_starts}
"""By name, functions of the byte before and the byte at which a group may start."""


class Document:
    """A text that is not empty, with its boundaries, each of which is computed once on demand.

    Finer groups start wherever coarser ones do, so that words nest in sentences, and so on.

    Args:
        content: the text, which may be invalid UTF-8.
        carried: by name, starts of groups from the data, which replace computed ones.
    """

    def __init__(self, content: bytes, carried: Mapping[str, Sequence[int] | np.ndarray] | None = None) -> None:
        self.content = content
        self._carried = carried or {}
        self._starts: dict[str, np.ndarray] = {}

    def starts(self, name: str) -> np.ndarray:
        """(T,) bool starts of a boundary, which include the first byte."""
        if name not in self._starts:
            if name in self._carried:
                starts_T = _at(self._carried[name], len(self.content))
            else:
                starts_T = FINDERS[name](self)
                if name in _COARSER:
                    starts_T |= self.starts(_COARSER[name])
            self._starts[name] = starts_T
        return self._starts[name]

    def segments(self, breaker: type[BaseBreaker], text: str) -> np.ndarray:
        """Starts of ICU's segments in a text of equal length, in characters."""
        # Rules and dictionaries depend on the script, not on the locale.
        starts = np.fromiter(chain.from_iterable(breaker(text, "en").segments()), dtype=np.int64)[::2]
        if not self._wide_C.any():
            return starts
        # ICU counts units of UTF-16: two for characters beyond U+FFFF.
        char_index = np.repeat(np.arange(len(text)), 1 + self._wide_C)
        return char_index[starts]

    @cached_property
    def chars(self) -> str:
        """The text, with U+FFFD for invalid bytes."""
        return self._decoded[1]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(C+1,) byte offsets of characters, and the end."""
        text = self._decoded[0]
        return np.arange(len(text) + 1) if len(text) == len(self.content) else char_offsets(text)

    @cached_property
    def codes(self) -> np.ndarray:
        """(C,) the code points."""
        return np.frombuffer(self.chars.encode("utf-32-le"), dtype=np.uint32)

    @cached_property
    def headings(self) -> list[tuple[int, int]]:
        """Where each heading starts, and where the line after it does."""
        return _headings(self.content)

    @cached_property
    def _decoded(self) -> tuple[str, str]:
        return decoded(self.content)

    @cached_property
    def _wide_C(self) -> np.ndarray:
        return self.codes >= 0x10000


def words(document: Document) -> np.ndarray:
    """Starts of words. Spaces and signs belong to the word before them."""
    with needs_extra("text", "the boundary words"):
        from icu4py.breakers import WordBreaker

    segments = document.segments(WordBreaker, document.chars)
    if not len(segments):
        return _at((), len(document.content))
    alphanumeric = [char for char in set(document.chars) if char.isalnum()]
    in_word = np.zeros(0x110000, dtype=bool)
    in_word[[ord(char) for char in alphanumeric]] = True
    is_word = np.logical_or.reduceat(in_word[document.codes], segments)
    return _at(document.offsets[segments[is_word]], len(document.content))


def sentences(document: Document) -> np.ndarray:
    """Starts of sentences and list items. Other line breaks may be within a sentence, as in wrapped text."""
    with needs_extra("text", "the boundary sentences"):
        from icu4py.breakers import SentenceBreaker

    joined = document.chars.replace("\n", " ").replace("\r", " ")
    starts_T = _at(document.offsets[document.segments(SentenceBreaker, joined)], len(document.content))
    starts_T[[match.start() for match in _ITEM.finditer(document.content)]] = True
    return starts_T


def paragraphs(document: Document) -> np.ndarray:
    """Starts of paragraphs: after empty lines and form feeds, and at and after headings."""
    content = document.content
    starts = [match.end() for match in _PARAGRAPH.finditer(content)]
    starts += chain.from_iterable(document.headings)
    return _at(starts, len(content))


def sections(document: Document) -> np.ndarray:
    """Starts of sections: headings of Markdown and reStructuredText, and after form feeds."""
    content = document.content
    starts = [match.end() for match in _PAGE.finditer(content)]
    starts += [first for first, _ in document.headings]
    return _at(starts, len(content))


def _causal(name: str) -> Callable[[Document], np.ndarray]:
    def find_starts(document: Document) -> np.ndarray:
        raw = np.frombuffer(document.content, dtype=np.uint8)
        starts_T = np.ones(len(raw), dtype=bool)
        starts_T[1:] = CAUSAL[name](raw[:-1], raw[1:])
        return starts_T

    return find_starts


FINDERS: dict[str, Callable[[Document], np.ndarray]] = {
    "words": words,
    "sentences": sentences,
    "paragraphs": paragraphs,
    "sections": sections,
    **{name: _causal(name) for name in CAUSAL},
}
_COARSER = {"words": "sentences", "sentences": "paragraphs", "paragraphs": "sections"}


def find(name: str, content: bytes) -> np.ndarray:
    """(T,) bool starts of a boundary in a text that is not empty."""
    return Document(content).starts(name)


def _at(positions: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """(T,) bool, true at the positions within the text, and at its first byte."""
    starts_T = np.zeros(length, dtype=bool)
    offsets = np.asarray(positions, dtype=np.int64)
    starts_T[offsets[offsets < length]] = True
    starts_T[0] = True
    return starts_T


def _headings(content: bytes) -> list[tuple[int, int]]:
    headings = []
    for match in _HEADING.finditer(content):
        end = content.find(b"\n", match.start())
        headings.append((match.start(), end + 1 if end >= 0 else len(content)))
    for match in _UNDERLINE.finditer(content):
        title = _line_before(content, match.start())
        text = content[title : match.start()].strip().decode("utf-8", "replace")
        # Shorter lines of other characters are not underlines, but parts of quotes or comments.
        if text and (match[1] in b"=-" or len(match[0].rstrip()) >= len(text)):
            headings.append((_overline(content, title, match[0]), match.end() + 1))
    return headings


def _overline(content: bytes, title: int, underline: bytes) -> int:
    """The start of a heading, including a line over it that equals its underline and follows an empty line."""
    over = _line_before(content, title)
    if content[over:title].strip() != underline.strip():
        return title
    return title if content[_line_before(content, over) : over].strip() else over


def _line_before(content: bytes, start: int) -> int:
    """The start of the line before a line; 0 for the first."""
    return content.rfind(b"\n", 0, max(0, start - 1)) + 1
