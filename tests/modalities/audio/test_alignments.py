from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrt_mm.errors import BadSample, UserError
from modalities.audio.alignments import read_alignment, written
from modalities.audio.intervals import Alignment, Interval

TIERS: Alignment = {
    "phonemes": (Interval(0.0, 0.25, "Z"), Interval(0.25, 0.5, "IH"), Interval(0.5, 1.0, "R")),
    "words": (Interval(0.125, 1.0, 'zéro "null"'), Interval(1.0, 1.5, "two 2 <exists> ! no")),
}
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.5
<exists>
2
"IntervalTier"
"words"
0
2.5
2
0
1.25
"say \"\"hi\"\"\"
1.25
2.5
""
"TextTier"
"clicks"
0
2.5
1
0.75
"click"
"""
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 ! comments count for nothing: 7 "a"
xmax = 2.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1.25
            text = "say \"\"hi\"\"\"
        intervals [2]:
            xmin = 1.25
            xmax = 2.5
            text = ""
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 0.75
            mark = "click"
"""


def save(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def spoken(tiers: Alignment) -> dict[str, list[Interval]]:
    return {name: [interval for interval in own if interval.label] for name, own in tiers.items()}


@pytest.mark.parametrize("kind", ["textgrid", "tsv", "json"])
def test_what_is_written_is_read(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path, f"a.{'TextGrid' if kind == 'textgrid' else kind}", written(kind, TIERS, end=2.0))
    assert spoken(read_alignment(path)) == {name: list(own) for name, own in TIERS.items()}


def test_ctm_round_trip(tmp_path: Path) -> None:
    words = {"words": (Interval(0.5, 0.75, "two"), Interval(0.8, 1.0, "three"))}
    text = written("ctm", words, name="a file")
    assert text.splitlines()[0] == "a_file 1 0.5 0.25 two"
    found = read_alignment(save(tmp_path, "a.ctm", ";; a comment\n" + text + "b 1 0 0.5 one 0.99\n"))
    times = [(own.start, round(own.end, 9), own.label) for own in found["a_file"]]
    assert times == [(0.5, 0.75, "two"), (0.8, 1, "three")]
    assert found["b"] == (Interval(0, 0.5, "one"),)


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_both_forms_of_textgrid(text: str, encoding: str, tmp_path: Path) -> None:
    found = read_alignment(save(tmp_path, "a.TextGrid", text.encode(encoding)))
    assert found == {
        "words": (Interval(0, 1.25, 'say "hi"'), Interval(1.25, 2.5, "")),
        "clicks": (Interval(0.75, 0.75, "click"),),
    }


def test_a_textgrid_has_no_gaps() -> None:
    text = written("textgrid", {"w": (Interval(0.5, 1.0, "a"), Interval(1.5, 2.0, "b"))}, end=3)
    assert text.count('text = ""') == 3 and "intervals: size = 5" in text and "xmax = 3" in text


def test_srt() -> None:
    text = written("srt", {"words": (Interval(0.0, 1.2345, "one"), Interval(3661.5, 3662, "two\nlines"))})
    assert text == "1\n00:00:00,000 --> 00:00:01,234\none\n\n2\n01:01:01,500 --> 01:01:02,000\ntwo lines\n"
    with pytest.raises(UserError, match="one tier"):
        written("srt", TIERS)
    with pytest.raises(UserError, match="unknown kind of alignment 'xml'"):
        written("xml", TIERS)


def row(start: float, end: float) -> str:
    return json.dumps({"w": [{"start": start, "end": end, "label": "a"}]})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.TextGrid", SHORT.replace('"TextGrid"', '"Pitch"'), "is no TextGrid"),
        ("a.TextGrid", "", "ends where"),
        ("a.TextGrid", SHORT[: SHORT.index('"click"')], r"a.TextGrid:25: ends where the label"),
        ("a.TextGrid", SHORT.replace("1.25\n2.5\n", "x\n2.5\n"), r"a.TextGrid:18: expected the end of an interval"),
        ("a.TextGrid", SHORT.replace('"clicks"', '"words"'), "two tiers 'words'"),
        ("a.TextGrid", SHORT.replace("<exists>\n2", "<exists>\n2.5"), "how many tiers"),
        ("a.TextGrid", SHORT.replace("2.5\n2\n", "2.5\n99999999999\n"), "expected the start of an interval"),
        ("a.TextGrid", SHORT.replace('"TextTier"', '"Other"'), "kind 'Other'"),
        ("a.TextGrid", SHORT + '"never closed', None),
        ("a.ctm", "a 1 0.5 two\n", r"a.ctm:1: has 4 fields"),
        ("a.ctm", "a 1 0 1 x\na 1 zero 1 x\n", r"a.ctm:2: expected a number of seconds, got 'zero'"),
        ("a.ctm", "a 1 0 nan x\n", "number of seconds"),
        ("a.ctm", "a 1 1 1 x\na 1 0 1 y\n", "sort the file"),
        ("a.ctm", "a 1 1 -1 x\n", "not before the start"),
        ("a.tsv", "", "no column 'start'"),
        ("a.tsv", "start\tend\tlabel\n0\t1\n", r"a.tsv:2: has 2 columns"),
        ("a.json", "[1", "is not JSON"),
        ("a.json", "[]", "must be an object"),
        ("a.json", '{"w": [1]}', "number 0, must be"),
        ("a.json", '{"w": 3}', "list of intervals"),
        ("a.json", row(2, 1), "not before the start"),
        ("a.json", row(-1, 1), "0 or more"),
        ("a.json", '{"w": [{"start": 0, "end": NaN, "label": "a"}]}', "0 or more"),
        ("a.json", "[" * 100000, "JSON"),
        ("a.xml", "", "must end in"),
        ("a.tsv", b"start\tend\tlabel\n0\t1\t\xff\n", r"a.tsv:2: is not utf-8"),
    ],
)
def test_broken_files(name: str, content: str | bytes, message: str | None, tmp_path: Path) -> None:
    path = save(tmp_path, name, content)
    if message is None:
        assert read_alignment(path)
        return
    with pytest.raises(BadSample, match=message):
        read_alignment(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"the name: cannot be read: No such file"):
        read_alignment(tmp_path / "a.tsv", "the name")
