"""What the text tokenizers take: strings, bytes, or either with marks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample

_LONGEST = 4
"""Bytes of the longest character."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Text:
    """A text with its known boundaries. Offsets count bytes of bytes, and characters of a string.

    Args:
        content: the text.
        documents: where documents start, maybe one at the end; the tokenizer puts a separator there.
        boundaries: by name, where groups start that the data carries; they stand in for those that would be found.
        around: of a window of a longer document, the bytes just before and just after it there, 3 of each where there
            are as many. With them tokenizers of subwords take whole characters (:meth:`Marked.whole`).
    """

    content: str | bytes
    documents: tuple[int, ...] = ()
    boundaries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    around: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class Marked:
    """A text as bytes, its offsets counted in them.

    Args:
        content: UTF-8, or bytes as they came.
        documents: where documents start.
        boundaries: by name, where carried groups start.
        around: of a window, what lies before and after it.
        lead: bytes at the start of which only the last token counts, as what the next one is predicted from.
    """

    content: bytes
    documents: np.ndarray
    boundaries: Mapping[str, np.ndarray]
    around: tuple[bytes, bytes] | None = None
    lead: int = 0

    def whole(self) -> Marked:
        """The same window in whole characters: those that start in it after its first byte, and the one before.

        As windows that lie edge to edge share a byte, each character then is in one of them, and beside that the last
        one of a window is the ``lead`` of the next.
        """
        if self.around is None:
            return self
        before, after = self.around
        raw, start = before + self.content + after, len(before)
        end = char_start(raw, start + len(self.content), start + int(self.documents[-1]) if len(self.documents) else 0)
        lead = 0
        if not len(self.documents) or self.documents[0]:
            ahead = raw[: start + int(self.documents[0])] if len(self.documents) else raw
            first = char_start(ahead, start + 1)
            lead = next(size for size in range(1, first + 1) if char_start(ahead, first - size) == first - size)
            moved = lead + start - first
        else:
            moved = 0
        boundaries = {name: offsets + moved for name, offsets in self.boundaries.items()}
        return Marked(raw[start - moved : end], self.documents + moved, boundaries, lead=lead)

    def parts(self) -> Iterator[tuple[bool, bytes, dict[str, np.ndarray]]]:
        """Each document, or what there is of it: whether it starts here, its bytes, and its carried groups."""
        edges = [*self.documents.tolist(), len(self.content)]
        if edges[0]:
            yield False, *self._part(0, edges[0])
        for first, last in pairwise(edges):
            yield True, *self._part(first, last)

    def _part(self, first: int, last: int) -> tuple[bytes, dict[str, np.ndarray]]:
        inside = {
            name: offsets[np.searchsorted(offsets, first) : np.searchsorted(offsets, last)] - first
            for name, offsets in self.boundaries.items()
        }
        return self.content[first:last], inside


def marked(value: Any, name: str, max_bytes: int) -> Marked:
    """A sample's value as bytes, checked.

    Args:
        value: ``str``, ``bytes`` or :class:`Text`.
        name: of the sample, for messages.
        max_bytes: the longest text.

    Raises:
        BadSample: the value is no text, is empty or too long, has a lone surrogate, or offsets that do not fit.
    """
    text = value if isinstance(value, Text) else Text(value)
    content = text.content
    if not isinstance(content, str | bytes):
        raise BadSample(name, f"is {type(content).__name__}, not text; give str, bytes or Text")
    raw = _encoded(content, name) if isinstance(content, str) else content
    if not raw and not text.documents:
        raise BadSample(name, "is empty; a text needs at least one byte")
    if len(raw) > max_bytes:
        raise BadSample(name, f"has {len(raw):,} bytes, more than modality.max_bytes {max_bytes:,}; raise it or cut it")
    last = len(content) - 1
    boundaries = {key: _checked(offsets, last, f"boundary {key!r}", name) for key, offsets in text.boundaries.items()}
    documents = _checked(text.documents, last + 1, "documents", name)
    if isinstance(content, str) and len(content) != len(raw):
        offset_of_char = char_offsets(content)
        documents, boundaries = (
            offset_of_char[documents],
            {key: offset_of_char[offsets] for key, offsets in boundaries.items()},
        )
    return Marked(raw, documents, boundaries, text.around)


def char_start(raw: bytes, position: int, first: int = 0) -> int:
    """The first place from ``place`` on that lies inside no character of UTF-8.

    Whether it does follows from the 3 bytes before it, so that all windows agree. Bytes that are no UTF-8 are apart.

    Args:
        raw: the bytes.
        position: where to begin.
        first: where the document starts.
    """
    while position < len(raw) and _inside(raw, position, first):
        position += 1
    return position


def _inside(raw: bytes, position: int, first: int) -> bool:
    for back in range(min(_LONGEST, position - first + 1)):
        byte = raw[position - back]
        if byte & 0xC0 != 0x80:
            return back < 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0) and back > 0
    return False


def char_offsets(text: str) -> np.ndarray:
    """Where each character starts in UTF-8, and the end; a character that stands for an invalid byte is one byte."""
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    size = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
    size[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
    return np.concatenate([[0], np.cumsum(size)])


def decoded(content: bytes) -> tuple[str, str]:
    """A text from bytes, each invalid one as a lone surrogate, and the same with U+FFFD for these."""
    text = content.decode("utf-8", "surrogateescape")
    clean = _SURROGATE.sub("\ufffd", text)
    return text, text if clean == text else clean


def _encoded(content: str, name: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise BadSample(
            name,
            f"has a lone surrogate {content[error.start]!r} at character {error.start}, which UTF-8 cannot hold; read "
            "the source with errors='replace', or give bytes",
        ) from error


def _checked(offsets: Sequence[int], last: int, what: str, name: str) -> np.ndarray:
    array = np.asarray(offsets)
    if not array.size:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise BadSample(name, f"{what} must start at whole numbers, got {offsets!r:.80}")
    if (outside := array[(array < 0) | (array > last)]).size:
        raise BadSample(name, f"{what} start at {outside[0]}, outside the text; the last place is {last}")
    if (back := np.flatnonzero(array[1:] <= array[:-1])).size:
        raise BadSample(name, f"{what} start at {array[back[0] + 1]} after {array[back[0]]}; offsets must rise")
    return array.astype(np.int64)
