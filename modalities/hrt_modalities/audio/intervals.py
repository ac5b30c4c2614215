"""Operations on labelled time spans, of which alignments, captions and transcripts consist."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.data.time_span import TimeSpan

log = logging.getLogger(__name__)

SILENCE = "sil"
"""The label of silence."""
DIGITS = 6
"""Decimals of seconds in files. Smaller overlaps count as rounding."""
_SURROGATE = re.compile("[\ud800-\udfff]")


Alignment = Mapping[str, Sequence[TimeSpan]]
"""Intervals of each tier by name, in order of time."""


def check_order(intervals: Sequence[TimeSpan], name: str, tier: str) -> None:
    """Checks that times are finite and ascending, and that labels are valid Unicode.

    Raises:
        BadSample: they are not; names the interval.
    """
    for index, interval in enumerate(intervals):
        if _SURROGATE.search(interval.label):
            raise BadSample(
                name,
                f"{tier!r} has {interval.label!r} (number {index}), in which half of a character is missing (a lone "
                "surrogate); write it anew",
            )
        if not (math.isfinite(interval.start) and math.isfinite(interval.end) and 0 <= interval.start <= interval.end):
            raise BadSample(
                name,
                f"{tier!r} has {interval.label!r} (number {index}) from {interval.start} to {interval.end} s; times "
                "are 0 or more, and the end is not before the start",
            )
    for index, (first, second) in enumerate(pairwise(intervals), 1):
        if second.start < first.end - 10**-DIGITS:
            raise BadSample(
                name,
                f"{tier!r} has {second.label!r} (number {index}) at {second.start} s, before {first.label!r} ends at "
                f"{first.end} s; sort the file, or take overlapping speech apart",
            )


def without_overlaps(intervals: Sequence[TimeSpan], name: str) -> list[TimeSpan]:
    """Intervals in order of time, each cut where the next starts; those that start together become one.

    Args:
        intervals: in any order.
        name: of the file, for the warning that counts the changes.
    """
    merged: list[TimeSpan] = []
    changed = 0
    for current in sorted(intervals, key=lambda interval: interval.start):
        last = merged[-1] if merged else None
        if last is not None and current.start < last.end:
            changed += current.start < last.end - 10**-DIGITS
            if current.start == last.start:
                # Repeated captions become one.
                label = " ".join(filter(None, dict.fromkeys([last.label, current.label])))
                merged[-1] = TimeSpan(last.start, max(last.end, current.end), label)
                continue
            merged[-1] = replace(last, end=current.start)
        merged.append(current)
    if changed:
        log.warning("%s: %d of %d intervals overlap; each ends where the next starts", name, changed, len(intervals))
    return merged


def segments_of(intervals: Sequence[TimeSpan], seconds: float) -> tuple[TimeSpan, ...]:
    """The labelled intervals, with silences in gaps, before the first and after the last, so that all time is covered.

    Args:
        intervals: in order of time; those without a label are silences.
        seconds: duration of the sound, where the last segment ends.
    """
    segments: list[TimeSpan] = []
    end = 0.0
    for interval in intervals:
        if interval.label in ("", SILENCE) or interval.start >= seconds:
            continue
        if interval.start - end > 10**-DIGITS:
            segments += [TimeSpan(end, interval.start, SILENCE), interval]
        else:
            # A gap within rounding is split in the middle.
            middle = (end + interval.start) / 2 if segments else 0.0
            if segments:
                segments[-1] = replace(segments[-1], end=middle)
            segments.append(replace(interval, start=middle))
        end = interval.end
    if not segments or seconds - end > 10**-DIGITS:
        return (*segments, TimeSpan(end if segments else 0.0, seconds, SILENCE))
    return (*segments[:-1], replace(segments[-1], end=seconds))


def seconds(text: str, name: str, line: int) -> float:
    """A time.

    Raises:
        BadSample: it is no finite number; names the line.
    """
    try:
        # Python accepts 1_0 for 10.
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        fix = "; write a point in it, not a comma" if "," in text else ""
        raise BadSample(f"{name}:{line}", f"expected a number of seconds, got {text[:40]!r}{fix}")
    return value


def one_line(label: str) -> str:
    """A label without line breaks, tabs and repeated spaces, for formats with one interval per line."""
    return " ".join(label.split())


def only_tier(alignment: Alignment, kind: str) -> Sequence[TimeSpan]:
    """The only tier of an alignment.

    Raises:
        UserError: it has several.
    """
    if len(alignment) > 1:
        raise UserError(
            f"{kind} holds one tier, got {', '.join(alignment)}; choose one, or write TextGrid, TSV or JSON"
        )
    return next(iter(alignment.values()), ())


def short(time: float) -> str:
    """Seconds without trailing zeros."""
    return f"{time:.{DIGITS}f}".rstrip("0").rstrip(".")
