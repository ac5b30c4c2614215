"""Alignments: labelled time spans on named tiers. TextGrid, CTM, TSV, JSON and SRT are read and written.

WebVTT, labels of Audacity (``.txt``) and the JSON of Whisper are only read. Files are untrusted: everything is checked,
and errors name the line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.data.plain_text import NotText, decode
from hrt_mm.data.time_span import TimeSpan

from . import captions, json_alignments, textgrid, time_tables
from .intervals import Alignment, check_order, only_tier

MAX_BYTES = 1 << 26
"""Limit of the size of a file."""


def read_alignment(path: Path, name: str | None = None) -> dict[str, tuple[TimeSpan, ...]]:
    """The tiers of a file, whose suffix gives its format.

    Each utterance of a CTM file is a tier. Captions (SRT, WebVTT) have the tier ``subtitles``, labels of Audacity
    ``labels``, results of Whisper ``segments`` and ``words``.

    Args:
        path: the file.
        name: of the file in messages; its path when ``None``.

    Raises:
        BadSample: it is missing, too large, not of that format, or has times that are no numbers, negative or out of
            order; names the line.
    """
    name = name or str(path)
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise BadSample(name, f"is no alignment that can be read; it must end in {', '.join(_READERS)}")
    text = _text(path, name)
    tiers = _READERS[kind](text, name)
    for tier, intervals in tiers.items():
        check_order(intervals, name, tier)
    return {tier: tuple(intervals) for tier, intervals in tiers.items()}


def format_alignment(kind: str, alignment: Alignment, *, name: str = "sound", end: float | None = None) -> str:
    """An alignment as text.

    Args:
        kind: ``textgrid``, ``ctm``, ``tsv``, ``json`` or ``srt``.
        alignment: the tiers; only one for CTM and SRT.
        name: of the sound, for CTM.
        end: duration of the sound in seconds, for TextGrid; the end of the last interval when ``None``.

    Raises:
        UserError: there is no such format, or it has one tier and there are more.
    """
    if kind not in WRITERS:
        raise UserError(f"unknown kind of alignment {kind!r}; one of {', '.join(WRITERS)}")
    last = max((interval.end for tier in alignment.values() for interval in tier), default=0.0)
    return WRITERS[kind](alignment, name, max(last, end or 0.0))


def _text(path: Path, name: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise BadSample(name, "is no regular file")
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(name, f"is larger than {MAX_BYTES >> 20} MiB; cut it into one file a recording")
        raw = path.read_bytes()
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    if raw.startswith(b"ooBinaryFile"):
        raise BadSample(name, "is a binary TextGrid; save it as a text file in Praat")
    try:
        # Praat writes UTF-16 if a label is not ASCII.
        return decode(raw)
    except NotText as error:
        raise BadSample(f"{name}:{error.line}", error.reason) from error


_READERS: dict[str, Callable[[str, str], dict[str, list[TimeSpan]]]] = {
    ".textgrid": textgrid.parse,
    ".ctm": time_tables.read_ctm,
    ".tsv": time_tables.read_tsv,
    ".json": json_alignments.read_json,
    ".srt": captions.parse_srt,
    ".vtt": captions.parse_vtt,
    ".txt": time_tables.read_audacity,
}
READABLE = (".TextGrid", ".textgrid", ".tsv", ".json", ".ctm")
"""Suffixes of alignments beside sounds, in the order in which they are looked for."""
WRITERS: dict[str, Callable[[Alignment, str, float], str]] = {
    "textgrid": lambda alignment, name, end: textgrid.dump(alignment, end),
    "ctm": time_tables.write_ctm,
    "tsv": time_tables.write_tsv,
    "json": json_alignments.write_json,
    "srt": lambda alignment, name, end: captions.dump(only_tier(alignment, "SRT")),
}
