"""Praat's TextGrid, in its long and short form.

Both are read as Praat reads them: tokens are quoted strings, separate numbers and flags such as ``<exists>``.
Everything else is decoration, as are comments after ``!``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hrt_mm.core.errors import BadSample
from hrt_mm.data.time_span import TimeSpan

from .intervals import DIGITS, Alignment, seconds

_TOKEN = re.compile(
    r"""
    (?P<text>"(?:[^"]|"")*")
    | (?P<open>")
    | (?P<comment>!.*)
    | (?P<flag><\w+>)
    | (?P<number>(?<!\S)[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\S))
    | [^\s"!<]+ | <
    """,
    re.VERBOSE,
)


def parse(text: str, name: str) -> dict[str, list[TimeSpan]]:
    """The tiers of a TextGrid. Points of point tiers have duration 0.

    Raises:
        BadSample: it is none, is truncated, or has more content than its sizes; names the line.
    """
    reader = _Reader(text, name)
    if (
        reader.string("the kind of file") not in ("ooTextFile", "ooTextFile short")
        or reader.string("the kind of object") != "TextGrid"
    ):
        raise BadSample(
            f"{name}:1", 'is no TextGrid; it begins with File type = "ooTextFile", Object class = "TextGrid"'
        )
    reader.number("the start")
    reader.number("the end")
    if reader.take("flag", "whether there are tiers") != "<exists>":
        return {}
    tiers: dict[str, list[TimeSpan]] = {}
    for _ in range(reader.count("how many tiers there are")):
        kind = reader.string("the kind of tier")
        if kind not in ("IntervalTier", "TextTier"):
            raise BadSample(f"{name}:{reader.line}", f"has a tier of kind {kind!r}; expected IntervalTier or TextTier")
        tier = reader.string("the name of a tier")
        if tier in tiers:
            raise BadSample(f"{name}:{reader.line}", f"has two tiers {tier!r}; rename one")
        reader.number("the start of a tier")
        reader.number("the end of a tier")
        tiers[tier] = [reader.interval(kind) for _ in range(reader.count("how many intervals there are"))]
    reader.end()
    return tiers


def dump(alignment: Alignment, end: float) -> str:
    """A TextGrid in the long form. Gaps become empty intervals, which Praat requires.

    A tier with only points becomes a point tier; points among intervals are dropped.
    """
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_time(end)}"]
    lines += ["tiers? <exists>", f"size = {len(alignment)}", "item []:"]
    for number, (tier, intervals) in enumerate(alignment.items(), 1):
        points = bool(intervals) and all(interval.start == interval.end for interval in intervals)
        filled = intervals if points else list(_without_gaps(intervals, end))
        kind, what = ("TextTier", "points") if points else ("IntervalTier", "intervals")
        lines += [f"    item [{number}]:", f'        class = "{kind}"', f"        name = {_quoted(tier)}"]
        lines += ["        xmin = 0", f"        xmax = {_time(end)}", f"        {what}: size = {len(filled)}"]
        for index, interval in enumerate(filled, 1):
            lines += [f"        {what} [{index}]:"]
            if points:
                lines += [
                    f"            number = {_time(interval.start)}",
                    f"            mark = {_quoted(interval.label)}",
                ]
                continue
            lines += [f"            xmin = {_time(interval.start)}", f"            xmax = {_time(interval.end)}"]
            lines += [f"            text = {_quoted(interval.label)}"]
    return "\n".join(lines) + "\n"


class _Reader:
    """Reads the tokens of a file."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.line = 1
        self._position = 0
        self._tokens = _TOKEN.finditer(text)

    def take(self, kind: str, what: str) -> str:
        """The next token, which must be of a kind; ``what`` describes it in messages."""
        for match in self._tokens:
            group = match.lastgroup
            if group in (None, "comment"):
                continue
            self.line += self.text.count("\n", self._position, match.start())
            self._position = match.start()
            if group != kind:
                raise BadSample(f"{self.name}:{self.line}", f"expected {what}, got {match[0][:40]!r}")
            return match[0]
        raise BadSample(f"{self.name}:{self.text.count(chr(10)) + 1}", f"ends where {what} is expected; it is cut off")

    def end(self) -> None:
        """Refuses tokens after the last tier, which would be lost."""
        for match in self._tokens:
            if match.lastgroup not in (None, "comment"):
                line = self.text.count("\n", 0, match.start()) + 1
                raise BadSample(
                    f"{self.name}:{line}",
                    f"goes on with {match[0][:40]!r} behind the last tier; a size before it is too small",
                )

    def string(self, what: str) -> str:
        return self.take("text", what)[1:-1].replace('""', '"')

    def number(self, what: str) -> float:
        return seconds(self.take("number", what), self.name, self.line)

    def count(self, what: str) -> int:
        value = self.number(what)
        if value < 0 or value != int(value):
            raise BadSample(f"{self.name}:{self.line}", f"expected {what}, got {value:g}")
        return int(value)

    def interval(self, kind: str) -> TimeSpan:
        start = self.number("the start of an interval")
        end = self.number("the end of an interval") if kind == "IntervalTier" else start
        return TimeSpan(start, end, self.string("the label of an interval"))


def _without_gaps(intervals: Sequence[TimeSpan], end: float) -> Iterator[TimeSpan]:
    last = 0.0
    for interval in intervals:
        if interval.start > last + 10**-DIGITS:
            yield TimeSpan(last, interval.start, "")
        if interval.end > interval.start:
            yield interval
        last = max(last, interval.end)
    if end > last + 10**-DIGITS:
        yield TimeSpan(last, end, "")


def _time(time: float) -> str:
    return f"{time:.{DIGITS}f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
