"""Captions of SubRip and WebVTT files as tiers of alignments."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.errors import BadSample
from modalities.audio.alignments import read_alignment, written
from modalities.audio.intervals import Interval

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>,
you.

2
00:01:02,345 --> 01:01:03,000  X1:40 X2:600

3
01:01:03,000 --> 01:01:04,000
-
"""
VTT = """WEBVTT - of a film

NOTE nothing that is shown
STYLE

intro
00:01.000 --> 00:02.500 align:start line:0%
<v Ann>Hello</v> there

01:00:02.000 --> 01:00:03.000
Bye
"""


def test_subrip(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SRT)
    assert read_alignment(tmp_path / "a.srt") == {
        "subtitles": (
            Interval(1.0, 2.5, "Hello there, you."),
            Interval(62.345, 3663.0, ""),
            Interval(3663.0, 3664.0, "-"),
        )
    }


def test_webvtt(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text("\ufeff" + VTT.replace("\n", "\r\n"), newline="")
    assert read_alignment(tmp_path / "a.vtt") == {
        "subtitles": (Interval(1.0, 2.5, "Hello there"), Interval(3602.0, 3603.0, "Bye"))
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    intervals = (Interval(0.25, 1.5, "one two"), Interval(3599.999, 3600.0, "three"))
    (tmp_path / "a.srt").write_text(written("srt", {"words": intervals}))
    assert read_alignment(tmp_path / "a.srt") == {"subtitles": intervals}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00:00:01 --> 00:00:02", r"a.srt:3: expected times such as 00:01:02,345 --> .*, got '00:00:01 --> 00:00:02'"),
        ("00:00:03,000 --> 00:00:02,000", r"from 3.0 to 2.0 s; times are 0 or more, and the end is not before"),
        (
            "00:00:01,000 --> 00:00:02,000\na\n\n00:00:01,500 --> 00:00:03,000",
            "before 'a' ends at 2.0 s; sort the file",
        ),
    ],
)
def test_wrong_times_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.srt").write_text(f"\n1\n{line}\nb\n")
    with pytest.raises(BadSample, match=message):
        read_alignment(tmp_path / "a.srt", "a.srt")
