"""Captions, as players show them: SubRip (SRT) and WebVTT files become one tier, ``subtitles``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hrt_mm.errors import BadSample

from .intervals import Interval, one_line

TIER = "subtitles"
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"</?[^<>]*>")


def parse(text: str, name: str) -> dict[str, list[Interval]]:
    """The captions of a file; what is before the first, between and behind them is left out, such as numbers and notes.

    Args:
        text: of the file.
        name: what it is called in messages.

    Raises:
        BadSample: a line with an arrow has no two times; names the line.
    """
    found: list[Interval] = []
    said: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if "-->" in line:
            start, end = _times(line, f"{name}:{number}")
            said = []
            found.append(Interval(start, end, ""))
        elif not line.strip():
            said = None
        elif said is not None:
            said.append(_TAG.sub("", line).strip())
            found[-1] = Interval(found[-1].start, found[-1].end, " ".join(filter(None, said)))
    return {TIER: found}


def dump(intervals: Sequence[Interval]) -> str:
    """Intervals as SubRip; those without a label are left out."""
    shown = [interval for interval in intervals if interval.label.strip()]
    parts = [
        f"{number}\n{clock(interval.start)} --> {clock(interval.end)}\n{one_line(interval.label)}\n"
        for number, interval in enumerate(shown, 1)
    ]
    return "\n".join(parts)


def clock(time: float) -> str:
    """Seconds as captions have them: ``00:01:02,345``."""
    milliseconds = round(time * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:{milliseconds // 1000 % 60:02},"
        f"{milliseconds % 1000:03}"
    )


def _times(line: str, place: str) -> tuple[float, float]:
    times = _TIMES.fullmatch(line)
    if times is None:
        raise BadSample(place, f"expected times such as 00:01:02,345 --> 00:01:04,000, got {line.strip()[:60]!r}")
    start, end = (times.groups()[first : first + 4] for first in (0, 4))
    return _seconds(start), _seconds(end)


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000
