"""Alignments: labelled stretches of time on named tiers. TextGrid, CTM, TSV, JSON and SRT are read and written.

Files are data from others: all of what they say is checked, and what is wrong is named with its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeGuard

from hrt_mm.errors import BadSample, UserError

from . import captions, textgrid
from .intervals import DIGITS, Alignment, Interval, check_order, one_line, seconds

MAX_BYTES = 1 << 26
"""The largest file that is read."""
_TSV = ("tier", "start", "end", "label")


def read_alignment(path: Path, name: str | None = None) -> dict[str, tuple[Interval, ...]]:
    """The tiers of a file; the ending of its name says of what kind it is.

    In CTM, which has no tiers, each utterance is one; captions (SRT, WebVTT) are the tier ``subtitles``.

    Args:
        path: the file.
        name: what it is called in messages; its path when ``None``.

    Raises:
        BadSample: it is missing, too large, not of that kind, or has times that are no numbers, negative or out of
            order; names the line.
    """
    name = name or str(path)
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise BadSample(name, f"is no alignment that can be read; it must end in {', '.join(_READERS)}")
    text = _text(path, name)
    found = _READERS[kind](text, name)
    for tier, intervals in found.items():
        check_order(intervals, name, tier)
    return {tier: tuple(intervals) for tier, intervals in found.items()}


def written(kind: str, alignment: Alignment, *, name: str = "sound", end: float | None = None) -> str:
    """An alignment as text.

    Args:
        kind: ``textgrid``, ``ctm``, ``tsv``, ``json`` or ``srt``.
        alignment: the tiers. CTM and SRT hold one.
        name: of the sound, for CTM.
        end: seconds that the sound lasts, for TextGrid; the end of the last interval when ``None``.

    Raises:
        UserError: there is no such kind, or it holds one tier and there are more.
    """
    if kind not in WRITERS:
        raise UserError(f"unknown kind of alignment {kind!r}; one of {', '.join(WRITERS)}")
    last = max((interval.end for own in alignment.values() for interval in own), default=0.0)
    return WRITERS[kind](alignment, name, max(last, end or 0.0))


def _text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(name, f"is larger than {MAX_BYTES >> 20} MiB; cut it into one file a recording")
        raw = path.read_bytes()
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    # Praat writes UTF-16 where a label needs more than ASCII.
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadSample(f"{name}:{line}", f"is not {encoding} ({error.reason}); save it as UTF-8") from error


def _read_ctm(text: str, name: str) -> dict[str, list[Interval]]:
    found: dict[str, list[Interval]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or line.startswith(";;"):
            continue
        if len(parts) not in (5, 6):
            raise BadSample(
                f"{name}:{number}", f"has {len(parts)} fields; CTM has: utterance, channel, start, duration, word"
            )
        start, duration = (seconds(part, name, number) for part in parts[2:4])
        found.setdefault(parts[0], []).append(Interval(start, start + duration, parts[4]))
    return found


def _write_ctm(alignment: Alignment, name: str, end: float) -> str:
    own = "_".join(name.split()) or "sound"
    rows = [
        f"{own} 1 {_short(interval.start)} {_short(interval.end - interval.start)} {'_'.join(interval.label.split())}"
        for interval in _only_tier(alignment, "CTM")
        if interval.label.strip()
    ]
    return "".join(row + "\n" for row in rows)


def _read_tsv(text: str, name: str) -> dict[str, list[Interval]]:
    lines = text.splitlines()
    header = lines[0].split("\t") if lines else []
    if missing := [column for column in _TSV[1:] if column not in header]:
        raise BadSample(f"{name}:1", f"has no column {missing[0]!r}; the header is: {', '.join(_TSV)} (tier may lack)")
    found: dict[str, list[Interval]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        parts = line.split("\t")
        if len(parts) != len(header):
            raise BadSample(f"{name}:{number}", f"has {len(parts)} columns, the header has {len(header)}")
        row = dict(zip(header, parts, strict=True))
        interval = Interval(seconds(row["start"], name, number), seconds(row["end"], name, number), row["label"])
        found.setdefault(row.get("tier", "words"), []).append(interval)
    return found


def _write_tsv(alignment: Alignment, name: str, end: float) -> str:
    rows = ["\t".join(_TSV)]
    for tier, intervals in alignment.items():
        rows += [
            "\t".join([one_line(tier), _short(interval.start), _short(interval.end), one_line(interval.label)])
            for interval in intervals
        ]
    return "\n".join(rows) + "\n"


def _read_json(text: str, name: str) -> dict[str, list[Interval]]:
    try:
        data = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise BadSample(f"{name}:{line}", f"is not JSON: {error}") from error
    except RecursionError as error:
        raise BadSample(name, "is JSON nested too deeply") from error
    if not isinstance(data, dict):
        raise BadSample(name, f'must be an object {{"tier": [intervals]}}, got {type(data).__name__}')
    return {tier: _json_tier(own, tier, name) for tier, own in data.items()}


def _json_tier(own: object, tier: str, name: str) -> list[Interval]:
    if not isinstance(own, list):
        raise BadSample(name, f"tier {tier!r} must be a list of intervals, got {type(own).__name__}")
    found = []
    for place, part in enumerate(own):
        start, end, label = (part.get(key) if isinstance(part, dict) else None for key in ("start", "end", "label"))
        if not (_is_number(start) and _is_number(end) and isinstance(label, str)):
            raise BadSample(
                name,
                f'tier {tier!r}, number {place}, must be {{"start": seconds, "end": seconds, "label": text}}, got '
                f"{part!r:.60}",
            )
        found.append(Interval(float(start), float(end), label))
    return found


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _write_json(alignment: Alignment, name: str, end: float) -> str:
    data = {
        tier: [
            {"start": round(own.start, DIGITS), "end": round(own.end, DIGITS), "label": own.label} for own in intervals
        ]
        for tier, intervals in alignment.items()
    }
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _write_textgrid(alignment: Alignment, name: str, end: float) -> str:
    return textgrid.dump(alignment, end)


def _write_srt(alignment: Alignment, name: str, end: float) -> str:
    return captions.dump(_only_tier(alignment, "SRT"))


def _only_tier(alignment: Alignment, kind: str) -> Sequence[Interval]:
    if len(alignment) > 1:
        raise UserError(
            f"{kind} holds one tier, got {', '.join(alignment)}; choose one, or write TextGrid, TSV or JSON"
        )
    return next(iter(alignment.values()), ())


def _short(time: float) -> str:
    return f"{time:.{DIGITS}f}".rstrip("0").rstrip(".")


_READERS: dict[str, Callable[[str, str], dict[str, list[Interval]]]] = {
    ".textgrid": textgrid.parse,
    ".ctm": _read_ctm,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".srt": captions.parse,
    ".vtt": captions.parse,
}
READABLE = (".TextGrid", ".textgrid", ".tsv", ".json", ".ctm")
"""What the names of files that can be read end in."""
WRITERS: dict[str, Callable[[Alignment, str, float], str]] = {
    "textgrid": _write_textgrid,
    "ctm": _write_ctm,
    "tsv": _write_tsv,
    "json": _write_json,
    "srt": _write_srt,
}
