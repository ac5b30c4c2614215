"""The input of the text tokenizers: strings or bytes, with documents and boundaries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample

_LONGEST = 4
"""Length of the longest character of UTF-8 in bytes."""
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Text:
    """A text with its boundaries. Offsets count bytes in bytes, and characters in strings.

    Args:
        content: the text.
        documents: starts of documents, possibly one at the end; the tokenizer puts a separator there.
        boundaries: by name, starts of groups from the data, which replace computed ones.
        around: for a window of a longer document, up to 3 bytes before and after it. Subword tokenizers use them to
            complete characters (:meth:`Marked.whole`).
    """

    content: str | bytes
    documents: tuple[int, ...] = ()
    boundaries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    around: tuple[bytes, bytes] | None = None


@dataclass(frozen=True)
class Marked:
    """A text as bytes, with offsets in bytes.

    Args:
        content: UTF-8, or the bytes of the input.
        documents: starts of documents.
        boundaries: by name, starts of the groups from the data.
        around: for a window, the bytes before and after it.
        lead: number of bytes at the start of which only the last token is used, as context of the next one.
    """

    content: bytes
    documents: np.ndarray
    boundaries: Mapping[str, np.ndarray]
    around: tuple[bytes, bytes] | None = None
    lead: int = 0

    def whole(self) -> Marked:
        """The same window in whole characters: those that start in it after its first byte, and the one before.

        Consecutive windows share a byte. Thus each character is in one of them, and the last character of a window is
        also the ``lead`` of the next.
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
        """Documents or parts of them: whether the document starts here, its bytes, and the groups from the data."""
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
        max_bytes: limit of the length.

    Raises:
        BadSample: the value is no text, is empty or too long, or has a lone surrogate or invalid offsets.
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
    """The first position from ``position`` on that is not inside of a character of UTF-8.

    This depends only on the 3 bytes before, so that all windows agree. Invalid bytes count as characters.

    Args:
        raw: the bytes.
        position: where to begin.
        first: start of the document.
    """

    def is_inside(position: int) -> bool:
        for back in range(min(_LONGEST, position - first + 1)):
            byte = raw[position - back]
            # Continuation bytes are 10xxxxxx. Other bytes start a character, and their upper bits give its length.
            if byte & 0xC0 != 0x80:
                return back < 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0) and back > 0
        return False

    while position < len(raw) and is_inside(position):
        position += 1
    return position


def char_offsets(text: str) -> np.ndarray:
    """Byte offsets of characters in UTF-8, and the end. Surrogates that stand for invalid bytes are one byte."""
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    size = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
    size[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
    return np.concatenate([[0], np.cumsum(size)])


def decoded(content: bytes) -> tuple[str, str]:
    """Decoded bytes, with lone surrogates for invalid ones, and the same with U+FFFD instead of these."""
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
