"""Captions of SubRip and WebVTT files as tiers of alignments."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import BadSample
from hrt_mm.data.time_span import TimeSpan
from hrt_modalities.audio.alignments import format_alignment, read_alignment

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
            TimeSpan(1.0, 2.5, "Hello there, you."),
            TimeSpan(62.345, 3663.0, ""),
            TimeSpan(3663.0, 3664.0, "-"),
        )
    }


def test_webvtt(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text("\ufeff" + VTT.replace("\n", "\r\n"), newline="")
    assert read_alignment(tmp_path / "a.vtt") == {
        "subtitles": (TimeSpan(1.0, 2.5, "Hello there"), TimeSpan(3602.0, 3603.0, "Bye"))
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    intervals = (TimeSpan(0.25, 1.5, "one two"), TimeSpan(3599.999, 3600.0, "three"))
    (tmp_path / "a.srt").write_text(format_alignment("srt", {"words": intervals}))
    assert read_alignment(tmp_path / "a.srt") == {"subtitles": intervals}


def read(tmp_path: Path, content: str | bytes, name: str = "a.srt") -> list[tuple[float, float, str]]:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return [(item.start, item.end, item.label) for item in read_alignment(tmp_path / name, name)["subtitles"]]


def one(text: str) -> str:
    return f"1\n00:00:20,000 --> 00:00:24,000\n{text}\n"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (r"{\an8}<i>Tom &amp; Jerry</i>", "Tom & Jerry"),
        ('<font color="#ff0000" face="A">red</font> {b}bold{/b}', "red bold"),
        ("<FONT COLOR=red>red</FONT><br/>next<br>line", "red next line"),
        (r"{\an8\pos(192,220)}- Yes.{\i1} No.", "- Yes. No."),
        ("a &lt;i&gt; b &quot;c&quot; &#39;d&#x27; &nbsp;e &euro;", "a <i> b \"c\" 'd' e €"),
        ("R&D, AT&T; &nosuch; x &amp y", "R&D, AT&T; &nosuch; x &amp y"),
        ("go --> there", "go --> there"),
        ("1.5 --> 2.5 and x -> y", "1.5 --> 2.5 and x -> y"),
        ("if a < b and b > c: {x} <3", "if a < b and b > c: {x} <3"),
        ("1984", "1984"),
        ("2", "2"),
        ("first\n\n- second, behind a blank line\n\n\nthird", "first - second, behind a blank line third"),
        (r"{\an8}one\Ntwo\hthree", "one two three"),
        (r"C:\New\an8", r"C:\New\an8"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("following", ["", "\n2\n00:00:30,000 --> 00:00:31,000\nnext\n"])
def test_the_text_of_captions(tmp_path: Path, text: str, label: str, following: str) -> None:
    more = [(30.0, 31.0, "next")] if following else []
    for content in (one(text) + following, (one(text) + following).replace("\n", "\r\n")):
        assert read(tmp_path, content) == [(20.0, 24.0, label), *more]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("0:0:4,8 --> 0:0:7,4", (4.8, 7.4)),
        ("00:00:04.800-->00:00:07.400", (4.8, 7.4)),
        ("  00:00:4,80  -->  00:00:7,40  ", (4.8, 7.4)),
        ("00:04,8 --> 01:07,25", (4.8, 67.25)),
        ("00:00:01 --> 00:00:02", (1.0, 2.0)),
        ("75:00 --> 75:30.5", (4500.0, 4530.5)),
        ("100:00:00,000 --> 100:00:00,000", (360000.0, 360000.0)),
        ("00: 00: 01, 000 --> 00: 00: 02, 500", (1.0, 2.5)),
        ("00:00:01,000 --> 00:00:02,000  X1:100 X2:600 Y1:050 Y2:100", (1.0, 2.0)),
        ("00:00:01,1234567 --> 00:00:02,000 align:start", (1.1234567, 2.0)),
        ("00:00:01,000\t-->\t00:00:02,000", (1.0, 2.0)),
    ],
)
def test_loose_times(tmp_path: Path, times: str, expected: tuple[float, float]) -> None:
    for before in ("1\n", "", "7\n", "\n\n1\n\n", "\ufeff1\n"):
        assert read(tmp_path, f"{before}{times}\nhi\n") == [(*expected, "hi")]
    assert read(tmp_path, f"WEBVTT\n\n{times}\nhi\n", "a.vtt") == [(*expected, "hi")]


COUNTERS = {
    "as they should be": "1\n0:1,0 --> 0:2,0\na\n\n2\n0:3,0 --> 0:4,0\nb\n\n3\n0:5,0 --> 0:6,0\nc\n",
    "none": "0:1,0 --> 0:2,0\na\n\n0:3,0 --> 0:4,0\nb\n\n0:5,0 --> 0:6,0\nc\n",
    "some lack": "1\n0:1,0 --> 0:2,0\na\n\n0:3,0 --> 0:4,0\nb\n\n3\n0:5,0 --> 0:6,0\nc\n",
    "repeated": "1\n0:1,0 --> 0:2,0\na\n\n1\n0:3,0 --> 0:4,0\nb\n\n1\n0:5,0 --> 0:6,0\nc\n",
    "other numbers": "0\n0:1,0 --> 0:2,0\na\n\n 17 \n0:3,0 --> 0:4,0\nb\n\n0003\n0:5,0 --> 0:6,0\nc\n",
    "no blank lines": "1\n0:1,0 --> 0:2,0\na\n2\n0:3,0 --> 0:4,0\nb\n3\n0:5,0 --> 0:6,0\nc",
    "blank lines behind counters": "1\n\n0:1,0 --> 0:2,0\na\n\n2\n\n0:3,0 --> 0:4,0\nb\n\n3\n\n0:5,0 --> 0:6,0\nc\n",
    "many blank lines": "\n\n1\n0:1,0 --> 0:2,0\n\na\n\n\n\n2\n0:3,0 --> 0:4,0\nb\n \n\n3\n0:5,0 --> 0:6,0\nc\n\n\n",
    "another order": "3\n0:5,0 --> 0:6,0\nc\n\n1\n0:1,0 --> 0:2,0\na\n\n2\n0:3,0 --> 0:4,0\nb\n",
}


@pytest.mark.parametrize("content", COUNTERS.values(), ids=COUNTERS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_counters_and_blank_lines_may_lack_or_be_wrong(tmp_path: Path, content: str, end: str, encoding: str) -> None:
    expected = [(1.0, 2.0, "a"), (3.0, 4.0, "b"), (5.0, 6.0, "c")]
    assert read(tmp_path, content.replace("\n", end).encode(encoding)) == expected


@pytest.mark.parametrize(
    "content",
    [
        "\u200e1\n\u200e0:1,0 --> 0:2,0\u200e\na\n\n\u200f2\n\u202a0:3,0 \u200e-->\u200e 0:4,0\u202c\nb\n",
        "\ufeff\ufeff1\n0:1,0 --> 0:2,0\na\n\n\ufeff2\n0:3,0 --> 0:4,0\nb\n",
        "1\n0:1,0 --> 0:2,0\na\n\n\u20672\u2069\n\n0:3,0 --> 0:4,0\nb\n",
        "1\r\n0:1,0 --> 0:2,0\r\na\r\n\r\n2\r\n0:3,0 --> 0:4,0\r\nb\r\n\x1a",
        "WEBVTT\n\n\u200f0:01.0 --> 0:02.0\na\n\n\u200f0:03.0 --> 0:04.0\nb\n",
    ],
)
def test_invisible_marks_around_times_and_counters_do_not_count(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == [(1.0, 2.0, "a"), (3.0, 4.0, "b")]


def test_marks_of_direction_in_captions_stay(tmp_path: Path) -> None:
    label = "\u202b\u200e12\u202c"
    assert [item[2] for item in read(tmp_path, one(label) + "\n2\n0:30 --> 0:31\n0:1 --\u200e&gt; 0:2\n")] == [
        label,
        "0:1 --\u200e> 0:2",
    ]


def test_numbers_that_are_text_stay(tmp_path: Path) -> None:
    numbered = "1\n0:1,0 --> 0:2,0\n10\n9\n\n2\n0:3,0 --> 0:4,0\n2\n\n3\n0:5,0 --> 0:6,0\n3\n"
    plain = "0:1,0 --> 0:2,0\n10\n9\n\n0:3,0 --> 0:4,0\n2\n\n0:5,0 --> 0:6,0\n3\n"
    for content in (numbered, plain):
        assert [label for _, _, label in read(tmp_path, content)] == ["10 9", "2", "3"]


def test_overlapping_captions_end_where_the_next_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "0:1 --> 0:4\na\n\n0:3 --> 0:5\nb\n\n0:3 --> 0:6\nc\n\n0:6 --> 0:7\nd\n"
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, content) == [(1.0, 3.0, "a"), (3.0, 6.0, "b c"), (6.0, 7.0, "d")]
    assert caplog.messages == ["a.srt: 2 of 4 intervals overlap; each ends where the next starts"]


def test_a_caption_that_is_there_twice_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, "0:1 --> 0:4\na\n\n0:1 --> 0:4\na\n") == [(1.0, 4.0, "a")]


FULL_VTT = """WEBVTT Kind: captions; Language: en
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000

STYLE
::cue(b) { color: red }

REGION
id:fred
width:40%

NOTE
a comment of
several lines 00:01 and 5

1
00:01.000 --> 00:02.000 region:fred align:left line:0 position:20%,line-left
<v.loud Mary Ann>Hello <c.yellow.bg_blue>yellow</c></v>
<00:00:01.500>later &amp; &lt;b&gt; &lrm;<lang en-GB>here</lang>

intro --chapter
00:00:03.000 --> 00:00:04.000
<ruby>漢<rt>kan</rt></ruby> <u>u</u>

NOTE one line

00:05.000 --> 00:06.000
2

7
100:00:00.000 --> 100:00:01.000
- a --- b

STYLE
"""


def test_all_that_webvtt_has(tmp_path: Path) -> None:
    expected = [
        (1.0, 2.0, "Hello yellow later & <b> \u200ehere"),
        (3.0, 4.0, "漢kan u"),
        (5.0, 6.0, "2"),
        (360000.0, 360001.0, "- a --- b"),
    ]
    for name in ("a.vtt", "a.srt"):
        assert read(tmp_path, FULL_VTT, name) == expected
        assert read(tmp_path, FULL_VTT.replace("\n", "\r\n").encode("utf-16"), name) == expected
    assert read(tmp_path, "WEBVTT\n", "a.vtt") == [] == read(tmp_path, "WEBVTT", "a.vtt")
    assert read(tmp_path, "WEBVTT\n00:01.000 --> 00:02.000\na\n", "a.vtt") == [(1.0, 2.0, "a")]
    assert read(tmp_path, "00:01.000 --> 00:02.000\na\n\nNOTE b\n", "a.vtt") == [(1.0, 2.0, "a")]


def test_an_empty_file_has_no_captions(tmp_path: Path) -> None:
    assert read(tmp_path, "") == [] == read(tmp_path, "\n\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n00:00:xx,000 --> 00:00:02,000\nb\n", r"a.srt:2: expected times such as 00:01:02,345 --> "),
        ("1\n0:1 --> 0:2\na\n\n2\n00:00:03,000 -> 00:00:04,000\nb\n", r"a.srt:6: expected times"),
        ("1\n0:1 --> 0:2\na\n\n2\n00:00:03,000 00:00:04,000\nb\n", r"a.srt:6: expected times"),
        ("1\n0:1 --> 0:2\na\n\n2\n3.5 --> 4\nb\n", r"a.srt:6: expected times"),
        ("1\n0:1 --> 0:2\na\n\n9\n00:00:03:12 --> 00:00:04:00\nb\n", r"a.srt:6: expected times"),
        ("1\n-00:00:01,000 --> 00:00:02,000\nb\n", r"a.srt:2: expected times"),
        ("1\n00:00:03,000 --> 00:00:02,000\nb\n", r"a.srt:2: is from 3.0 to 2.0 s; .*the end is not before the start"),
        ("1\n00:00:01,000 --> 00:00:02,000 hello\nb\n", r"a.srt:2: expected nothing or settings .*'hello'"),
        ("1\n00:61:01,000 --> 00:62:02,000\nb\n", r"a.srt:2: has 61 minutes and 1 seconds; both must be below 60"),
        ("1\n00:00:75,000 --> 00:01:02,000\nb\n", r"a.srt:2: has 0 minutes and 75 seconds"),
        ("Some text\n\n1\n0:1 --> 0:2\na\n", r"a.srt:4: is the first caption, but 'Some text' stands before it"),
        ("{1}{25}MicroDVD\n", r"a.srt:1: has no captions; expected times"),
        ("[Script Info]\nTitle: x\n", r"a.srt:1: has no captions"),
        (one("a") + "\n2\n\n", r"a.srt:5: ends within a caption, behind '2'; it is cut off"),
        (one("a") + "\n2\n00:00:30,000 --> ", r"a.srt:6: expected times"),
        (one("a") + "\n2\n00:00:30", r"a.srt:6: expected times"),
        (one("a") + "\n00:00:30,000 -", r"a.srt:5: ends within a caption, behind '00:00:30,000 -'"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\na\n\n00:03.00", r"a.srt:6: ends within a caption"),
        (one("Grüße").encode("latin-1"), r"a.srt:3: is not utf-8 .*save it as UTF-8"),
        (one("a").encode("utf-16-le"), r"a.srt:1: has NUL characters: .*UTF-16 without a byte order mark"),
        (one("a").encode("utf-16")[:-1], r"is not utf-16"),
        (b"\x1f\x8b\x08\x00\x00", r"a.srt:1: is not utf-8"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        read(tmp_path, content)


def test_long_lines_take_no_quadratic_time(tmp_path: Path) -> None:
    for part in ("<b ", "{\\", "&#1", "--> ", "1:", "0:1 --> 0:2 ", "<br", "- ->", "9"):
        try:
            read(tmp_path, one(part * 50_000))
            read(tmp_path, part * 50_000)
        except BadSample:
            continue


LABELS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("<>{}\\/&;#-: ib123")), max_size=20
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 5_000_000), LABELS), max_size=5))
def test_any_caption_that_is_written_is_read_back(tmp_path: Path, parts: list[tuple[int, str]]) -> None:
    starts = sorted({start for start, _ in parts})
    labels = [" ".join(label.split()).replace("\0", "") for _, label in parts]
    intervals = [
        TimeSpan(start / 1000, (start + 1) / 1000, label)
        for start, label in zip(starts, labels, strict=False)
        if label.strip()
    ]
    result = read(tmp_path, format_alignment("srt", {"words": intervals}))
    assert [(round(start * 1000), label) for start, _, label in result] == [
        (round(item.start * 1000), " ".join(item.label.split())) for item in intervals
    ]


PARTS = st.sampled_from(
    [
        "1\n",
        "2\n",
        "\n",
        "\r\n",
        "00:00:01,000 --> 00:00:02,500\n",
        "0:5 --> 0:6 align:start\n",
        "-->",
        "00:01 -->",
        "a",
        "<i>",
        "{\\an8}",
        "&amp;",
        "WEBVTT\n",
        "NOTE ",
        "STYLE\n",
        ":",
        ",",
        " ",
        "9" * 5000,
        "\u2028",
        "\ufeff",
        "00:03",
    ]
)


@settings(max_examples=200)
@given(st.lists(st.one_of(PARTS, st.text(max_size=4)), max_size=25).map("".join), st.sampled_from(["a.srt", "a.vtt"]))
def test_any_text_gives_captions_or_a_reason(tmp_path: Path, text: str, name: str) -> None:
    try:
        result = read(tmp_path, text.encode("utf-8", "surrogatepass"), name)
    except BadSample:
        return
    assert all(0 <= start <= end for start, end, _ in result)
    assert all(first[1] <= second[0] for first, second in pairwise(result))
