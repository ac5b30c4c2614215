"""Captions: SubRip (SRT) and WebVTT files become one tier, ``subtitles``.

Files are read leniently, as by players: counters may be missing or repeated, times may be short (``0:0:4,8``), captions
may contain blank lines, overlap, or be out of order.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from hrt_mm.core.errors import BadSample
from hrt_mm.data.time_span import TimeSpan

from .intervals import one_line, without_overlaps

TIER = "subtitles"
_LINE_END = re.compile(r"\r\n|\n|\r")
_TIME = r"(?:([0-9]{1,6})\s*:\s*)?([0-9]{1,6})\s*:\s*([0-9]{1,2})(?:\s*[.,]\s*([0-9]{1,9}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?P<rest>(?:\s.*)?)")
_LIKE_TIMES = re.compile(r"\s*-?[0-9]+\s*:[0-9:.,\s]*(?:--?\s?>|[\u2013\u2014]\s?>|[→⟶])|.*-->\s*-?[0-9]+:[0-9]+:[0-9]")
"""Lines that look like times but cannot be read."""
_TIMES_ALONE = re.compile(r"[-0-9:.,;\s]*:[-0-9:.,;\s]*")
_ARROWS = re.compile("[>→⟶]")
_SETTING = re.compile(r"[A-Za-z][\w-]*:\S+")
_COUNTER = re.compile(r"\s*[0-9]+\s*")
_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Direction marks, which editors put around times in right-to-left languages, and byte order marks, which remain inside
concatenated files."""
_BLOCKS = re.compile(r"(NOTE|STYLE|REGION)(\s.*)?")
"""First lines of WebVTT blocks that are not captions."""
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SPACES = re.compile(r"\\[Nnh]")
_NAMES = "b|i|u|s|em|strong|font|span|c|v|lang|ruby|rt|p|div|small|big|center|strike|del|a"
_TAG = re.compile(
    rf"</?(?:{_NAMES})(?:[\s.][^<>]*)?/?>"  # HTML's, and WebVTT's with classes
    r"|<[0-9]+:[0-9:.]+>"  # times within a caption
    r"|\{\\[^{}]*\}|\{/?[bius]\}",  # SubStation Alpha's, such as {\an8}
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def parse_srt(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The captions of a SubRip file; see :func:`_parse`."""
    if text.startswith("WEBVTT"):
        return parse_vtt(text, name)
    return _parse(_lines(text), name, numbered=True)


def parse_vtt(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The captions of a WebVTT file; see :func:`_parse`."""
    return _parse(_without_blocks(_lines(text)), name, numbered=False)


def _parse(lines: Sequence[str], name: str, *, numbered: bool) -> dict[str, list[TimeSpan]]:
    """The captions of a file in order of time, without tags, and with decoded entities.

    A caption that overlaps the next one is shortened; captions that start together are merged. A warning counts both.

    Args:
        lines: of the file.
        name: of the file in messages.
        numbered: whether captions have counters, and no text precedes the first.

    Raises:
        BadSample: times cannot be read, a caption ends before it starts, or there is text before the first; names the
            line.
    """
    captions: list[TimeSpan] = []
    text: list[str] = []
    for index, line in enumerate(lines):
        # Times are expected after the number of the next caption, with an empty line before that.
        after_counter = index > 0 and lines[index - 1].strip() == str(len(captions) + 1)
        after_counter = after_counter and (index == 1 or not lines[index - 2].strip())
        times = _times(line, f"{name}:{index + 1}", after_counter)
        if times is None:
            text.append(line)
            continue
        if numbered:
            text = _without_counter(text, len(captions) + 1)
        _end_caption(captions, text, f"{name}:{index + 1}" if numbered else None)
        captions.append(TimeSpan(*times, ""))
        text = []
    wrong = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
    if not captions and wrong is not None and numbered:
        raise BadSample(f"{name}:{wrong}", "has no captions; expected times such as 00:01:02,345 --> 00:01:04,000")
    _check_end(text, name, len(lines), len(captions) + 1 if numbered else None)
    _end_caption(captions, text, None)
    return {TIER: without_overlaps(captions, name)}


def dump(intervals: Sequence[TimeSpan]) -> str:
    """Intervals as SubRip; those without a label are left out."""
    labelled = [interval for interval in intervals if interval.label.strip()]
    parts = [
        f"{number}\n{clock(interval.start)} --> {clock(interval.end)}\n{_escaped(interval.label)}\n"
        for number, interval in enumerate(labelled, 1)
    ]
    return "\n".join(parts)


def clock(time: float) -> str:
    """Seconds as captions have them: ``00:01:02,345``."""
    milliseconds = round(time * 1000)
    return (
        f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:{milliseconds // 1000 % 60:02},"
        f"{milliseconds % 1000:03}"
    )


def _escaped(label: str) -> str:
    """A label on one line, in which everything that looks like a tag, an entity or times is escaped."""
    label = _ENTITY.sub(lambda match: "&amp;" + match[0][1:], one_line(label))
    label = re.sub(r"<(?=[/A-Za-z0-9])", "&lt;", label)
    label = re.sub(r"\{(?=[\\/biusBIUS])", "&#123;", label)
    bare = _MARKS.sub("", label)
    if "-->" in bare or _LIKE_TIMES.match(bare):
        label = _ARROWS.sub(lambda match: f"&#{ord(match[0])};", label)
    return label


def _lines(text: str) -> list[str]:
    """The lines of a file, without direction marks in times and counters and without a DOS end of file.

    Other lines keep their marks, which are part of the text.
    """
    lines = _LINE_END.split(text.rstrip("\x1a"))
    following = ""
    for index in reversed(range(len(lines))):
        bare = _MARKS.sub("", lines[index])
        if (
            _TIMES.fullmatch(bare)
            or _LIKE_TIMES.match(bare)
            or (_TIMES.fullmatch(following) and _COUNTER.fullmatch(bare))
        ):
            lines[index] = bare
        following = bare if bare.strip() else following
    return lines


def _without_blocks(lines: Sequence[str]) -> list[str]:
    """The lines of a WebVTT file with its header, notes, styles, regions and names of captions blanked."""
    remaining = list(lines)
    inside = lines[0].startswith("WEBVTT")
    for index, line in enumerate(lines):
        first = index == 0 or not lines[index - 1]
        if not line or "-->" in line:
            inside = False
        elif inside or (first and _BLOCKS.fullmatch(line)):
            inside = True
            remaining[index] = ""
        elif first and index + 1 < len(lines) and _TIMES.fullmatch(lines[index + 1]):
            remaining[index] = ""
    return remaining


def _without_counter(text: Sequence[str], number: int) -> list[str]:
    """The text between two captions without the counter of the second, which may be missing or wrong."""
    remaining = list(text)
    if remaining and _COUNTER.fullmatch(remaining[-1]):
        return remaining[:-1]
    while remaining and not remaining[-1].strip():
        remaining.pop()
    # Blank lines between the counter and the times.
    has_counter = (
        remaining and remaining[-1].strip() == str(number) and (number == 1 or not "".join(remaining[-2:-1]).strip())
    )
    return remaining[:-1] if has_counter and (number == 1 or len(remaining) > 1) else remaining


def _end_caption(captions: list[TimeSpan], text: Sequence[str], first: str | None) -> None:
    """Sets the text of the last caption. If ``first`` is the location of the first one, no text may precede it."""
    if captions:
        captions[-1] = TimeSpan(captions[-1].start, captions[-1].end, _label(text))
    elif first and (wrong := [line for line in text if line.strip()]):
        raise BadSample(first, f"is the first caption, but {wrong[0].strip()[:60]!r} stands before it; drop that")


def _check_end(text: Sequence[str], name: str, count: int, number: int | None) -> None:
    """Refuses a file that ends after the counter of a caption, or within its times."""
    content = "\n".join(text).rstrip().split("\n")
    last = content[-1].strip()
    has_start = len(content) > 1 and not content[-2].strip()
    if has_start and (last == str(number) or (last and _TIMES_ALONE.fullmatch(last))):
        line = count - len(text) + len(content)
        raise BadSample(f"{name}:{line}", f"ends within a caption, behind {last[:60]!r}; it is cut off, or drop that")


def _label(lines: Sequence[str]) -> str:
    text = " ".join(lines)
    if "{\\" in text:
        # Line breaks and spaces of SubStation Alpha.
        text = _SPACES.sub(" ", text)
    text = _TAG.sub("", _BREAK.sub(" ", text))
    return one_line(_ENTITY.sub(lambda match: html.unescape(match[0]), text))


def _times(line: str, location: str, expected: bool) -> tuple[float, float] | None:
    """Start and end on a line; ``None`` if it is text."""
    times = _TIMES.fullmatch(line)
    if times is None:
        if _LIKE_TIMES.match(line) or (expected and (_ARROWS.search(line) or _TIMES_ALONE.fullmatch(line))):
            raise BadSample(
                location, f"expected times such as 00:01:02,345 --> 00:01:04,000, got {line.strip()[:60]!r}"
            )
        return None
    if strange := [part for part in times["rest"].split() if not _SETTING.fullmatch(part)]:
        raise BadSample(location, f"expected nothing or settings behind the times, got {strange[0][:60]!r}")
    start, end = (_seconds(times.groups()[first : first + 4], location) for first in (0, 4))
    if end < start:
        raise BadSample(
            location, f"is from {start} to {end} s; times are 0 or more, and the end is not before the start"
        )
    return start, end


def _seconds(parts: Sequence[str | None], location: str) -> float:
    hours, minutes, seconds = (int(part or 0) for part in parts[:3])
    if seconds > 59 or (minutes > 59 and parts[0] is not None):
        raise BadSample(location, f"has {minutes} minutes and {seconds} seconds; both must be below 60")
    # "4,8" is 4.8 seconds.
    return 3600 * hours + 60 * minutes + float(f"{seconds}.{parts[3] or 0}")
