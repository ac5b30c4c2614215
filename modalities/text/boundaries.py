"""Where words, sentences, paragraphs, sections and lines start in a text.

``words`` and ``sentences`` follow the rules and dictionaries of Unicode (UAX #29) through ICU: they serve languages
without spaces too, and look ahead. ``spaces`` and ``lines`` follow from each byte and the one before it, so a causal
hierarchy may group by them.

Shapes: T bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from icu4py.breakers import BaseBreaker, SentenceBreaker, WordBreaker

from .text import char_offsets, decoded

_LINE = ord("\n")
_PARAGRAPH = re.compile(rb"\n[ \t\r\f\v]*\n\s*|\f\s*")
_HEADING = re.compile(rb"^#{1,6}[ \t]+\S", re.MULTILINE)
_UNDERLINE = re.compile(rb"^(?:={3,}|-{3,}|~{3,}|\^{3,}|\*{3,})[ \t]*\r?$", re.MULTILINE)
_SPACE_LIKE = np.ones(256, dtype=bool)
_SPACE_LIKE[list(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")] = False
_SPACE_LIKE[0x80:] = False
_ALONE = np.zeros(256, dtype=bool)
_ALONE[0xE3:0xEE] = True
"""Lead bytes of characters from U+3000 to U+DFFF: kana, Han and Hangul, which stand without spaces."""


def space_starts(previous: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Whether a word starts at a byte: one that is no space or sign, after one that is (SpaceByte, arXiv 2404.14408).

    Kana, Han and Hangul start a group with each character.
    """
    found: np.ndarray = (~_SPACE_LIKE[here] & _SPACE_LIKE[previous]) | _ALONE[here]
    return found


def line_starts(previous: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Whether a line starts at a byte: the one before ends a line."""
    found: np.ndarray = previous == _LINE
    return found


CAUSAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"spaces": space_starts, "lines": line_starts}


def _causal(rule: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[bytes], np.ndarray]:
    def found(content: bytes) -> np.ndarray:
        raw = np.frombuffer(content, dtype=np.uint8)
        starts_T = np.ones(len(raw), dtype=bool)
        starts_T[1:] = rule(raw[:-1], raw[1:])
        return starts_T

    return found


def words(content: bytes) -> np.ndarray:
    """(T,) bool: a word starts here. Spaces and signs belong to the word before them."""
    text, segments = _segments(content, WordBreaker)
    return _mask(len(content), text, [start for start, end in segments if _is_word(text[start:end])])


def sentences(content: bytes) -> np.ndarray:
    """(T,) bool: a sentence starts here, or a paragraph."""
    text, segments = _segments(content, SentenceBreaker)
    return _mask(len(content), text, [start for start, _ in segments]) | paragraphs(content)


def paragraphs(content: bytes) -> np.ndarray:
    """(T,) bool: a paragraph starts here, after an empty line or a form feed, or at a heading."""
    starts_T = sections(content)
    for match in _PARAGRAPH.finditer(content):
        if match.end() < len(content):
            starts_T[match.end()] = True
    return starts_T


def sections(content: bytes) -> np.ndarray:
    """(T,) bool: a section starts here, at a heading of Markdown or reStructuredText or after a form feed."""
    starts_T = np.zeros(len(content), dtype=bool)
    starts_T[0] = True
    for match in _HEADING.finditer(content):
        starts_T[match.start()] = True
    for match in _UNDERLINE.finditer(content):
        title = content.rfind(b"\n", 0, max(0, match.start() - 1)) + 1
        if content[title : match.start()].strip():
            starts_T[title] = True
    for match in re.finditer(rb"\f\s*", content):
        if match.end() < len(content):
            starts_T[match.end()] = True
    return starts_T


FINDERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "words": words,
    "sentences": sentences,
    "paragraphs": paragraphs,
    "sections": sections,
    **{name: _causal(rule) for name, rule in CAUSAL.items()},
}
"""By name, what finds the starts in a text of one byte or more; the first byte always is one."""

_FINER = {"words": ("sentences",), "sentences": ("paragraphs",), "paragraphs": ("sections",), "sections": ()}


def find(name: str, content: bytes) -> np.ndarray:
    """(T,) bool starts of a boundary by name. A word starts wherever a sentence does, and so on, so that they nest."""
    starts_T = FINDERS[name](content)
    for coarser in _FINER.get(name, ()):
        starts_T |= find(coarser, content)
    return starts_T


def _segments(content: bytes, breaker: type[BaseBreaker]) -> tuple[str, list[tuple[int, int]]]:
    """The text, each invalid byte as one character, and its segments in characters."""
    text, clean = decoded(content)
    segments = list(breaker(clean, "en").segments())
    if len(clean) * 2 != len(clean.encode("utf-16-le")):
        # ICU counts in units of UTF-16, two for a character beyond U+FFFF.
        wide = np.frombuffer(clean.encode("utf-32-le"), dtype=np.uint32) >= 0x10000
        place = np.repeat(np.arange(len(clean)), 1 + wide)
        place = np.append(place, len(clean))
        segments = [(int(place[start]), int(place[end])) for start, end in segments]
    return text, segments


def _is_word(segment: str) -> bool:
    return any(char.isalnum() for char in segment)


def _mask(length: int, text: str, chars: list[int]) -> np.ndarray:
    starts_T = np.zeros(length, dtype=bool)
    if len(text) != length:
        chars = char_offsets(text)[chars].tolist() if chars else []
    starts_T[chars] = True
    starts_T[0] = True
    return starts_T
