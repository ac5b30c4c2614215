"""Writes transcripts during recognition: lines of text, CTM, SRT captions, JSON, or a TextGrid at the end."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TextIO

from hrt_mm.cli.process import is_unicode
from hrt_mm.data.time_span import TimeSpan

from ..audio.alignments import format_alignment
from ..audio.captions import clock
from ..audio.intervals import DIGITS

_PAUSE, _LONGEST, _WORDS = 0.6, 5.0, 10
"""The pause in seconds that ends a caption, and the limits of its duration in seconds and of its words."""


class Transcript(ABC):
    """Writes words in order.

    Args:
        out: the output.
        name: of the sound.
        tier: name of the unit: words, phonemes.
    """

    def __init__(self, out: TextIO, name: str, tier: str) -> None:
        self.out, self.name, self.tier = out, name, tier

    @abstractmethod
    def add(self, word: TimeSpan) -> None:
        """Adds a finished word."""

    def end(self, seconds: float) -> None:
        """Ends the transcript of a sound of so many seconds."""
        self.out.flush()

    def _put(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


class TextTranscript(Transcript):
    """One line per word: start, end, word."""

    def add(self, word: TimeSpan) -> None:
        self._put(f"{word.start:9.2f} {word.end:9.2f}  {word.label}\n")


class Ctm(Transcript):
    """One line per word: sound, channel, start, duration, word, confidence."""

    def add(self, word: TimeSpan) -> None:
        line = format_alignment("ctm", {self.tier: [word]}, name=self.name)
        confidence = "" if word.score is None else f" {word.score:.2f}"
        self._put(f"{line.rstrip()}{confidence}\n")


class Srt(Transcript):
    """Captions of several words, each written when the next one begins."""

    def __init__(self, out: TextIO, name: str, tier: str) -> None:
        super().__init__(out, name, tier)
        self._open: list[TimeSpan] = []
        self._count = 0

    def add(self, word: TimeSpan) -> None:
        words = self._open
        if words and (
            word.start - words[-1].end > _PAUSE or word.end - words[0].start > _LONGEST or len(words) >= _WORDS
        ):
            self._write_caption()
        self._open.append(word)

    def end(self, seconds: float) -> None:
        if self._open:
            self._write_caption()

    def _write_caption(self) -> None:
        self._count += 1
        words, self._open = self._open, []
        text = " ".join(" ".join(word.label.split()) for word in words)
        gap = "\n" if self._count > 1 else ""
        self._put(f"{gap}{self._count}\n{clock(words[0].start)} --> {clock(words[-1].end)}\n{text}\n")


class Json(Transcript):
    """An object with a list of intervals, one per line, which can be read as an alignment."""

    def __init__(self, out: TextIO, name: str, tier: str) -> None:
        super().__init__(out, name, tier)
        self._before = f"{{{json.dumps(tier)}: [\n "

    def add(self, word: TimeSpan) -> None:
        entry = {"start": round(word.start, DIGITS), "end": round(word.end, DIGITS), "label": word.label}
        if word.score is not None:
            entry |= {"score": round(word.score, 4)}
        self._put(self._before + json.dumps(entry, ensure_ascii=not is_unicode(self.out)))
        self._before = ",\n "

    def end(self, seconds: float) -> None:
        self._put(("" if self._before[0] == "," else self._before) + "\n]}\n")


class TextGrid(Transcript):
    """A TextGrid, written at the end, because it begins with the number of intervals."""

    def __init__(self, out: TextIO, name: str, tier: str) -> None:
        super().__init__(out, name, tier)
        self._words: list[TimeSpan] = []

    def add(self, word: TimeSpan) -> None:
        self._words.append(word)

    def end(self, seconds: float) -> None:
        self._put(format_alignment("textgrid", {self.tier: self._words}, end=seconds))


FORMATS: dict[str, type[Transcript]] = {
    "text": TextTranscript,
    "ctm": Ctm,
    "srt": Srt,
    "json": Json,
    "textgrid": TextGrid,
}
