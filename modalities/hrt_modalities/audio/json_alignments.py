"""Alignments in JSON: tiers of intervals, and the formats of Whisper, WhisperX, whisper.cpp and Hugging Face."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hrt_mm.core.errors import BadSample
from hrt_mm.data.time_span import TimeSpan

from .intervals import DIGITS, Alignment, without_overlaps

SEGMENTS, WORDS = "segments", "words"


def read_json(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The tiers of a file.

    Whisper's results become the tiers ``segments`` and, if they have times of words, ``words``. A word without times,
    such as numbers in WhisperX, gets the time between its neighbours.

    Raises:
        BadSample: it is not JSON, or not in an expected form; names the interval.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except _DuplicateKey as error:
        raise BadSample(name, f"has two values at {error.key[:40]!r} in one object; rename one") from error
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise BadSample(f"{name}:{line}", f"is not JSON: {error}") from error
    except RecursionError as error:
        raise BadSample(name, "is JSON nested too deeply") from error
    if not isinstance(data, dict):
        raise BadSample(name, f'must be an object {{"tier": [intervals]}}, got {type(data).__name__}')
    if _is_whisper(data):
        return _whisper(data["segments"], name)
    for key, mark, read in (("transcription", "offsets", _cpp_segment), ("chunks", "timestamp", _chunk)):
        entries = data.get(key)
        if isinstance(entries, list) and entries and all(isinstance(part, dict) and mark in part for part in entries):
            parts = [read(part) for part in entries]
            return {SEGMENTS: without_overlaps(list(_timed(parts, SEGMENTS, name)), name)}
    tiers = {}
    for tier, entries in data.items():
        if not isinstance(entries, list):
            raise BadSample(name, f"tier {tier!r} must be a list of intervals, got {type(entries).__name__}")
        tiers[tier] = list(_timed(entries, tier, name))
    return tiers


class _DuplicateKey(Exception):
    """An object has a key twice.

    Args:
        key: the key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON without duplicate keys, whose first values would be lost."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise _DuplicateKey(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return mapping


def write_json(alignment: Alignment, name: str, end: float) -> str:
    """All tiers as JSON."""
    data = {
        tier: [
            {"start": round(interval.start, DIGITS), "end": round(interval.end, DIGITS), "label": interval.label}
            for interval in intervals
        ]
        for tier, intervals in alignment.items()
    }
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _timed(parts: Sequence[object], tier: str, name: str) -> Iterator[TimeSpan]:
    """Intervals from objects with start, end and label."""
    for index, part in enumerate(parts):
        start, end, label = (part.get(key) if isinstance(part, dict) else None for key in ("start", "end", "label"))
        begin, finish = _number(start), _number(end)
        if begin is None or finish is None or not isinstance(label, str):
            raise BadSample(
                name,
                f'tier {tier!r}, number {index}, must be {{"start": seconds, "end": seconds, "label": text}}, got '
                f"{part!r:.60}",
            )
        yield TimeSpan(begin, finish, label)


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_whisper(data: Mapping[str, Any]) -> bool:
    segments = data.get("segments")
    return (
        isinstance(segments, list)
        and all(isinstance(segment, dict) and "text" in segment for segment in segments)
        and (bool(segments) or "language" in data or "word_segments" in data)
    )


def _whisper(segments: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[TimeSpan]]:
    plain = [{**entry, "label": _stripped(entry.get("text"))} for entry in segments]
    tiers = {SEGMENTS: list(_timed(plain, SEGMENTS, name))}
    words: list[TimeSpan] = []
    for segment, entry in zip(tiers[SEGMENTS], segments, strict=True):
        listed = entry.get("words") or []
        if not isinstance(listed, list) or not all(isinstance(word, dict) for word in listed):
            raise BadSample(name, f"the words of the segment at {segment.start:g} s must be a list of objects")
        parts = [{**word, "label": _stripped(word.get("word", word.get("text")))} for word in listed]
        words += _timed(_with_times(parts, segment), WORDS, name)
    if words:
        tiers[WORDS] = words
    return {tier: without_overlaps(intervals, name) for tier, intervals in tiers.items()}


def _with_times(words: Sequence[Mapping[str, Any]], segment: TimeSpan) -> list[Mapping[str, Any]]:
    """Words, in which those without times divide the time between their neighbours or the ends of the segment."""
    timed: list[Mapping[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    last = segment.start
    for word in (*words, {"start": segment.end, "end": segment.end}):
        if "start" not in word and "end" not in word:
            waiting.append(word)
            continue
        start = _number(word.get("start"))
        span = max(0.0, (last if start is None else start) - last) / max(1, len(waiting))
        for index, untimed in enumerate(waiting):
            timed.append({**untimed, "start": last + index * span, "end": last + (index + 1) * span})
        waiting = []
        last = _number(word.get("end")) or last
        timed.append(word)
    return timed[:-1]


def _cpp_segment(part: object) -> object:
    """A segment of whisper.cpp, with times in milliseconds."""
    offsets = part.get("offsets") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(offsets, dict):
        return part
    start, end = (_number(offsets.get(key)) for key in ("from", "to"))
    times = {} if start is None or end is None else {"start": start / 1000, "end": end / 1000}
    return {**times, "label": _stripped(part.get("text"))}


def _chunk(part: object) -> object:
    """A segment of Hugging Face's pipeline."""
    times = part.get("timestamp") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(times, list) or len(times) != 2:
        return part
    return {"start": times[0], "end": times[1], "label": _stripped(part.get("text"))}


def _stripped(text: object) -> object:
    return text.strip() if isinstance(text, str) else text
