"""Alignments with one interval per line: NIST's CTM, tables (TSV), and labels of Audacity."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from hrt_mm.core.errors import BadSample
from hrt_mm.data.plain_text import lines_of
from hrt_mm.data.time_span import TimeSpan

from .intervals import DIGITS, Alignment, one_line, only_tier, seconds, short

TSV_COLUMNS = ("tier", "start", "end", "label")
AUDACITY_TIER = "labels"
_CONFIDENCE = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|<?[nN][aA]>?|-|\?|null", re.ASCII)
_ROUNDED_S = 0.011
"""Overlap that rounding start and duration to hundredths of a second can cause."""


def read_ctm(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The words of each utterance, or of each of its channels if it has several (``talk:A`` and ``talk:B``).

    Fields are those of NIST: utterance, channel, start, duration, word, and optionally confidence, type and speaker.

    Raises:
        BadSample: a line has other fields, or is one of several alternatives; names the line.
    """
    channels: dict[tuple[str, str], list[TimeSpan]] = {}
    for number, line in enumerate(lines_of(text), 1):
        parts = line.split()
        if not parts or parts[0].startswith(";;"):
            continue
        utterance, channel, interval = _ctm_interval(parts, name, number)
        channels.setdefault((utterance, channel), []).append(interval)
    utterances = [utterance for utterance, _ in channels]
    return {
        utterance if utterances.count(utterance) == 1 else f"{utterance}:{channel}": _without_rounding(intervals)
        for (utterance, channel), intervals in channels.items()
    }


def write_ctm(alignment: Alignment, name: str, end: float) -> str:
    """CTM of one tier."""
    sound = "_".join(name.split()) or "sound"
    rows = [
        f"{sound} 1 {short(interval.start)} {short(interval.end - interval.start)} {'_'.join(interval.label.split())}"
        for interval in only_tier(alignment, "CTM")
        if interval.label.strip()
    ]
    return "".join(row + "\n" for row in rows)


def read_tsv(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The tiers of a table with the columns start, end, label and optionally tier.

    Raises:
        BadSample: a column or a value is missing, or a time is no number; names the line.
    """
    lines = lines_of(text)
    header = lines[0].split("\t") if lines else []
    if missing := [column for column in TSV_COLUMNS[1:] if column not in header]:
        fix = f"the header is: {', '.join(TSV_COLUMNS)} (tier may lack)"
        raise BadSample(f"{name}:1", f"has no column {missing[0]!r}; {fix}")
    if twice := [column for column in TSV_COLUMNS if header.count(column) > 1]:
        raise BadSample(f"{name}:1", f"has two columns {twice[0]!r}; rename one")
    tiers: dict[str, list[TimeSpan]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        parts = line.split("\t")
        if len(parts) != len(header):
            raise BadSample(f"{name}:{number}", f"has {len(parts)} columns, the header has {len(header)}")
        row = dict(zip(header, parts, strict=True))
        interval = TimeSpan(seconds(row["start"], name, number), seconds(row["end"], name, number), row["label"])
        tiers.setdefault(row.get("tier", "words"), []).append(interval)
    return tiers


def write_tsv(alignment: Alignment, name: str, end: float) -> str:
    """A table of all tiers."""
    rows = ["\t".join(TSV_COLUMNS)]
    for tier, intervals in alignment.items():
        rows += [
            "\t".join([one_line(tier), short(interval.start), short(interval.end), one_line(interval.label)])
            for interval in intervals
        ]
    return "\n".join(rows) + "\n"


def read_audacity(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The labels that Audacity exports: start, end and label, separated by tabs. Frequency ranges are ignored.

    Raises:
        BadSample: a line is no label; names the line.
    """
    intervals: list[TimeSpan] = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip() or (intervals and line.startswith("\\\t")):
            continue
        parts = line.split("\t", 2)
        if len(parts) < 2:
            raise BadSample(f"{name}:{number}", "is no label of Audacity: start, end and label between tabs")
        start, end = (seconds(part, name, number) for part in parts[:2])
        intervals.append(TimeSpan(start, end, "".join(parts[2:])))
    return {AUDACITY_TIER: intervals}


def _ctm_interval(parts: list[str], name: str, number: int) -> tuple[str, str, TimeSpan]:
    location = f"{name}:{number}"
    if len(parts) >= 5 and parts[4].startswith("<ALT"):
        raise BadSample(location, f"has alternatives ({parts[4]}); keep one of them and drop the <ALT lines")
    if not 5 <= len(parts) <= 8:
        raise BadSample(
            location,
            f"has {len(parts)} fields; CTM has 5 to 8: utterance, channel, start, duration, word, confidence, type, "
            "speaker",
        )
    if len(parts) > 5 and not _CONFIDENCE.fullmatch(parts[5]):
        raise BadSample(
            location, f"has {parts[5][:40]!r} for a confidence, which is a number or NA; a word has no spaces in it"
        )
    start, duration = (seconds(part, name, number) for part in parts[2:4])
    if start < 0 or duration < 0:
        raise BadSample(
            location,
            f"starts at {start:g} s and lasts {duration:g} s; times are 0 or more, and the end is not before the start",
        )
    return parts[0], parts[1], TimeSpan(start, start + duration, parts[4])


def _without_rounding(intervals: list[TimeSpan]) -> list[TimeSpan]:
    """Intervals that are cut where the next starts, if the overlap is within rounding."""
    for index, (interval, after) in enumerate(pairwise(intervals)):
        if 10**-DIGITS < interval.end - after.start <= _ROUNDED_S and after.start >= interval.start:
            intervals[index] = replace(interval, end=after.start)
    return intervals
