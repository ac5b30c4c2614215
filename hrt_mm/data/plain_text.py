"""Decoding text files: UTF-8, or UTF-16 and UTF-32 with a byte order mark."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from .files import special

_MARKS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_LINE_END = re.compile("\r\n|\n")


class NotText(ValueError):
    """Bytes cannot be decoded as text.

    Args:
        line: counted from 1; 0 for the whole file.
        reason: what is wrong, and the fix.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} {reason}" if line else reason)
        self.line, self.reason = line, reason


def encoding_of(head: bytes) -> str:
    """The encoding given by a byte order mark, or ``utf-8``."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def decode(raw: bytes) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        NotText: the encoding is wrong, or there are NUL characters; names the line.
    """
    encoding = encoding_of(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        name = encoding.removesuffix("-sig")
        raise NotText(line, f"is not {name} ({error.reason}); save it as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise NotText(line, "has NUL characters: a binary file, or UTF-16 without a byte order mark; save it as UTF-8")
    return text


def lines_of(text: str) -> list[str]:
    r"""Splits a text at ``\n`` and ``\r\n``, but not at other line separators of Unicode.

    A text without any ``\n`` is split at ``\r``, the line end of classic Mac OS.
    """
    lines = _LINE_END.split(text) if "\n" in text else text.split("\r")
    return lines if lines[-1] else lines[:-1]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; see :func:`decode` and :func:`lines_of`.

    Raises:
        NotText: it is not text, or not a regular file.
        OSError: it cannot be read.
    """
    if (kind := special(path.stat().st_mode)) is not None:
        raise NotText(0, f"is {kind}, not a file")
    return lines_of(decode(path.read_bytes()))
