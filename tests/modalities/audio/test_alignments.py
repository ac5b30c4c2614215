from __future__ import annotations

import json
import logging
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.data.time_span import TimeSpan
from hrt_modalities.audio.alignments import format_alignment, read_alignment
from hrt_modalities.audio.intervals import Alignment

TIERS: Alignment = {
    "phonemes": (TimeSpan(0.0, 0.25, "Z"), TimeSpan(0.25, 0.5, "IH"), TimeSpan(0.5, 1.0, "R")),
    "words": (TimeSpan(0.125, 1.0, 'zéro "null"'), TimeSpan(1.0, 1.5, "two 2 <exists> ! no")),
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


def spoken(tiers: Alignment) -> dict[str, list[TimeSpan]]:
    return {name: [interval for interval in item if interval.label] for name, item in tiers.items()}


@pytest.mark.parametrize("kind", ["textgrid", "tsv", "json"])
def test_what_is_written_is_read(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path, f"a.{'TextGrid' if kind == 'textgrid' else kind}", format_alignment(kind, TIERS, end=2.0))
    assert spoken(read_alignment(path)) == {name: list(item) for name, item in TIERS.items()}


def test_ctm_round_trip(tmp_path: Path) -> None:
    words = {"words": (TimeSpan(0.5, 0.75, "two"), TimeSpan(0.8, 1.0, "three"))}
    text = format_alignment("ctm", words, name="a file")
    assert text.splitlines()[0] == "a_file 1 0.5 0.25 two"
    result = read_alignment(save(tmp_path, "a.ctm", ";; a comment\n" + text + "b 1 0 0.5 one 0.99\n"))
    times = [(item.start, round(item.end, 9), item.label) for item in result["a_file"]]
    assert times == [(0.5, 0.75, "two"), (0.8, 1, "three")]
    assert result["b"] == (TimeSpan(0, 0.5, "one"),)


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_both_forms_of_textgrid(text: str, encoding: str, tmp_path: Path) -> None:
    result = read_alignment(save(tmp_path, "a.TextGrid", text.encode(encoding)))
    assert result == {
        "words": (TimeSpan(0, 1.25, 'say "hi"'), TimeSpan(1.25, 2.5, "")),
        "clicks": (TimeSpan(0.75, 0.75, "click"),),
    }


def test_a_textgrid_has_no_gaps() -> None:
    text = format_alignment("textgrid", {"w": (TimeSpan(0.5, 1.0, "a"), TimeSpan(1.5, 2.0, "b"))}, end=3)
    assert text.count('text = ""') == 3 and "intervals: size = 5" in text and "xmax = 3" in text


def test_srt() -> None:
    text = format_alignment("srt", {"words": (TimeSpan(0.0, 1.2345, "one"), TimeSpan(3661.5, 3662, "two\nlines"))})
    assert text == "1\n00:00:00,000 --> 00:00:01,234\none\n\n2\n01:01:01,500 --> 01:01:02,000\ntwo lines\n"
    with pytest.raises(UserError, match="one tier"):
        format_alignment("srt", TIERS)
    with pytest.raises(UserError, match="unknown kind of alignment 'xml'"):
        format_alignment("xml", TIERS)


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
        ("a.TextGrid", SHORT + "! a comment and words\n", None),
        ("a.TextGrid", SHORT + '"never closed', r"goes on with '\"' behind the last tier"),
        ("a.TextGrid", SHORT.replace("<exists>\n2", "<exists>\n1"), "goes on with '\"TextTier\"' behind the last tier"),
        ("a.TextGrid", SHORT.replace("1.25", "1,25"), r"a.TextGrid:1[0-9]: expected"),
        ("a.TextGrid", "ooBinaryFile\x08TextGrid\0\0", "is a binary TextGrid; save it as a text file"),
        ("a.TextGrid", SHORT.encode("utf-16-le"), "has NUL characters: .*UTF-16 without a byte order mark"),
        ("a.TextGrid", SHORT.encode("utf-16")[:-1], "is not utf-16"),
        ("a.TextGrid", '"Praat chronological TextGrid text file"\n0 1\n', "is no TextGrid|expected"),
        ("a.ctm", "a 1 0.5 two\n", r"a.ctm:1: has 4 fields"),
        ("a.ctm", "a 1 0 1 x\na 1 zero 1 x\n", r"a.ctm:2: expected a number of seconds, got 'zero'"),
        ("a.ctm", "a 1 0 nan x\n", "number of seconds"),
        ("a.ctm", "a 1 0 1 x 1 lex A more\n", r"a.ctm:1: has 9 fields; CTM has 5 to 8"),
        ("a.ctm", "a 1 0 1 new york\n", r"a.ctm:1: has 'york' for a confidence, .* a word has no spaces"),
        ("a.ctm", "a 1 * * <ALT_BEGIN>\n", r"a.ctm:1: has alternatives \(<ALT_BEGIN>\); keep one of them"),
        ("a.ctm", "a 1 0,5 1 x\n", r"a.ctm:1: expected a number of seconds, got '0,5'; write a point"),
        ("a.ctm", "a 1 1_0 1 x\n", r"a.ctm:1: expected a number of seconds, got '1_0'"),
        ("a.ctm", "a 1 -1 1 x\n", r"a.ctm:1: starts at -1 s"),
        ("a.ctm", "a 1 1 1 x\na 1 0 1 y\n", "sort the file"),
        ("a.ctm", "a 1 1 -1 x\n", "not before the start"),
        ("a.tsv", "", "no column 'start'"),
        ("a.tsv", "start\tend\tlabel\tend\n0\t1\tx\t2\n", "two columns 'end'; rename one"),
        ("a.tsv", "start\tend\tlabel\n0\t1\n", r"a.tsv:2: has 2 columns"),
        ("a.json", "[1", "is not JSON"),
        ("a.json", "[]", "must be an object"),
        ("a.json", '{"w": [1]}', "number 0, must be"),
        ("a.json", '{"w": 3}', "list of intervals"),
        ("a.json", row(10**400, 1), "0 or more"),
        ("a.json", '{"w": [{"start": 1' + "0" * 5000 + ', "end": 2, "label": "a"}]}', "is not JSON"),
        ("a.json", '{"segments": [{"text": "a", "start": "0", "end": 1}]}', "'segments', number 0, must be"),
        ("a.json", '{"segments": [{"text": "a", "start": 0, "end": 1, "words": [3]}]}', "must be a list of objects"),
        ("a.json", '{"transcription": [{"text": "a"}]}', "number 0, must be"),
        ("a.txt", "hello\n", r"a.txt:1: is no label of Audacity: start, end and label between tabs"),
        ("a.txt", "0\tx\tlabel\n", r"a.txt:1: expected a number of seconds, got 'x'"),
        ("a.json", '{"w": [], "v": [], "w": []}', "has two values at 'w' in one object"),
        ("a.json", '{"w": [{"start": 0, "end": 1, "label": "\\ud83d"}]}', "half of a character is missing"),
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


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.srt")
    with pytest.raises(BadSample, match=r"a.srt: is no regular file"):
        read_alignment(tmp_path / "a.srt")


CTM = """;; CTM of NIST's RT-09
  ;; another comment
talk A 0.00 0.40 yes NA lex NA
talk A 0.39 0.20 %HESITATION 0.5 fp speaker_1

talk B 0.10 0.30 no <NA> lex <NA>
call 1 1.0 0.5 word -
call 1 1.5 0.25 five
call 1 1.75 0.25 seven 1.0e-1 non-lex
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ctm_of_five_to_eight_fields(end: str, tmp_path: Path) -> None:
    result = read_alignment(save(tmp_path, "a.ctm", "\ufeff" + CTM.replace("\n", end)))
    assert result == {
        "talk:A": (TimeSpan(0.0, 0.39, "yes"), TimeSpan(0.39, 0.39 + 0.20, "%HESITATION")),
        "talk:B": (TimeSpan(0.1, 0.1 + 0.3, "no"),),
        "call": (TimeSpan(1.0, 1.5, "word"), TimeSpan(1.5, 1.75, "five"), TimeSpan(1.75, 2.0, "seven")),
    }


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    label = "a\u0085b\u2028c\u2029d\x0be\x0cf\x1cg\rh"
    for end in ("\n", "\r\n"):
        text = end.join(["start\tend\tlabel", f"0\t1\t{label}", "", "1\t2\tz"])
        result = read_alignment(save(tmp_path, "a.tsv", text))
        assert result == {"words": (TimeSpan(0, 1, label), TimeSpan(1, 2, "z"))}
        assert read_alignment(save(tmp_path, "a.txt", f"0\t1\t{label}{end}"))["labels"] == (TimeSpan(0, 1, label),)


def test_lines_of_old_macintosh_programs(tmp_path: Path) -> None:
    expected = (TimeSpan(0.0, 0.5, "a"), TimeSpan(0.5, 1.0, "b"))
    assert read_alignment(save(tmp_path, "a.txt", "0\t0.5\ta\r0.5\t1\tb\r")) == {"labels": expected}
    assert read_alignment(save(tmp_path, "a.ctm", "u 1 0 0.5 a\ru 1 0.5 0.5 b\r")) == {"u": expected}
    assert read_alignment(save(tmp_path, "a.tsv", "start\tend\tlabel\r0\t0.5\ta\r0.5\t1\tb")) == {"words": expected}


def test_labels_of_audacity(tmp_path: Path) -> None:
    text = "0.5\t1.25\thello there\n\\\t100.0\t2000.0\n1.25\t1.25\t\n2.0\t3.0\n"
    expected = (TimeSpan(0.5, 1.25, "hello there"), TimeSpan(1.25, 1.25, ""), TimeSpan(2.0, 3.0, ""))
    assert read_alignment(save(tmp_path, "a.txt", text)) == {"labels": expected}


def words(*parts: tuple[object, ...]) -> list[dict[str, object]]:
    return [dict(zip(("word", "start", "end"), part, strict=False)) for part in parts]


def test_results_of_whisper(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timed = words((" Hello", 0.0, 0.5), (" 2014",), (" 15",), (" there.", 0.9, 1.5))
    segments = [
        {"id": 0, "start": 0.0, "end": 2.0, "text": " Hello 2014 15 there.", "words": timed, "speaker": "A"},
        {"start": 1.9, "end": 3.0, "text": "Bye", "words": words(("Bye",))},
    ]
    data = {"text": "...", "language": "en", "segments": segments, "word_segments": timed}
    with caplog.at_level(logging.WARNING):
        result = read_alignment(save(tmp_path, "a.json", json.dumps(data)), "a.json")
    assert result["segments"] == (TimeSpan(0.0, 1.9, "Hello 2014 15 there."), TimeSpan(1.9, 3.0, "Bye"))
    assert [(round(own.start, 6), round(own.end, 6), own.label) for own in result["words"]] == [
        (0.0, 0.5, "Hello"),
        (0.5, 0.7, "2014"),
        (0.7, 0.9, "15"),
        (0.9, 1.5, "there."),
        (1.9, 3.0, "Bye"),
    ]
    assert caplog.messages == ["a.json: 1 of 2 intervals overlap; each ends where the next starts"]
    assert read_alignment(save(tmp_path, "a.json", '{"segments": [], "language": "en"}')) == {"segments": ()}
    own = '{"segments": [{"start": 0, "end": 1, "label": "a"}]}'
    assert read_alignment(save(tmp_path, "a.json", own)) == {"segments": (TimeSpan(0, 1, "a"),)}


def test_results_of_whisper_cpp(tmp_path: Path) -> None:
    part = {"timestamps": {"from": "00:00:00,500", "to": "00:00:01,250"}, "offsets": {"from": 500, "to": 1250}}
    data = {"systeminfo": "x", "transcription": [part | {"text": " Hello"}]}
    result = read_alignment(save(tmp_path, "a.json", json.dumps(data)))
    assert result == {"segments": (TimeSpan(0.5, 1.25, "Hello"),)}


def test_results_of_other_speech_recognizers(tmp_path: Path) -> None:
    chunks = {
        "text": " a b",
        "chunks": [{"timestamp": [0.0, 1.5], "text": " a"}, {"timestamp": [1.5, 2.0], "text": " b"}],
    }
    result = read_alignment(save(tmp_path, "a.json", json.dumps(chunks)))
    assert result == {"segments": (TimeSpan(0.0, 1.5, "a"), TimeSpan(1.5, 2.0, "b"))}
    timed = [{"text": "a", "start": 0.0, "end": 0.5, "confidence": 0.9}]
    stamped = {"language": "en", "segments": [{"text": "a", "start": 0.0, "end": 1.0, "words": timed}]}
    assert read_alignment(save(tmp_path, "a.json", json.dumps(stamped)))["words"] == (TimeSpan(0.0, 0.5, "a"),)
    with pytest.raises(BadSample, match="'segments', number 0, must be"):
        read_alignment(save(tmp_path, "a.json", '{"chunks": [{"timestamp": [1.0, null], "text": "a"}]}'))


def test_names_of_tiers_are_free(tmp_path: Path) -> None:
    tiers = {name: (TimeSpan(0.0, 1.0, name),) for name in ("text", "segments", "words", "chunks", "transcription")}
    assert read_alignment(save(tmp_path, "a.json", format_alignment("json", tiers))) == tiers


def test_the_old_short_textgrid(tmp_path: Path) -> None:
    text = SHORT.replace('"ooTextFile"', '"ooTextFile short"').replace("Object class = ", "")
    assert read_alignment(save(tmp_path, "a.TextGrid", text))["clicks"] == (TimeSpan(0.75, 0.75, "click"),)


def test_points_stay_points(tmp_path: Path) -> None:
    tiers = {"clicks": (TimeSpan(0.5, 0.5, "a"), TimeSpan(0.75, 0.75, "")), "w": (TimeSpan(0, 1, "x"),)}
    assert read_alignment(save(tmp_path, "a.TextGrid", format_alignment("textgrid", tiers, end=1))) == tiers


TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from('"!<>\t\n;'))
)


@st.composite
def alignments(draw: st.DrawFn) -> dict[str, tuple[TimeSpan, ...]]:
    def tier() -> tuple[TimeSpan, ...]:
        steps = draw(st.lists(st.integers(1, 100_000), max_size=6))
        times = [sum(steps[:index]) / 1000 for index in range(len(steps) + 1)]
        return tuple(TimeSpan(start, end, draw(TEXT)) for start, end in pairwise(times))

    return {name: tier() for name in draw(st.lists(TEXT, max_size=3, unique_by=lambda item: " ".join(item.split())))}


@settings(max_examples=60)
@given(alignments())
def test_any_alignment_that_is_written_is_read_back(tmp_path: Path, tiers: dict[str, tuple[TimeSpan, ...]]) -> None:
    def plain(label: str) -> str:
        return " ".join(label.split())

    exact = {name: [item for item in intervals if item.label] for name, intervals in tiers.items()}
    lines = {
        plain(name): [TimeSpan(item.start, item.end, plain(item.label)) for item in intervals]
        for name, intervals in tiers.items()
        if intervals
    }
    assert spoken(read_alignment(save(tmp_path, "a.json", format_alignment("json", tiers)))) == exact
    assert spoken(read_alignment(save(tmp_path, "a.TextGrid", format_alignment("textgrid", tiers)))) == exact
    result = read_alignment(save(tmp_path, "a.tsv", format_alignment("tsv", tiers)))
    assert {name: list(item) for name, item in result.items()} == lines
    for intervals in lines.values():
        read_back = read_alignment(save(tmp_path, "a.ctm", format_alignment("ctm", {"w": intervals}))).get("sound", ())
        assert [(round(item.start, 6), round(item.end, 6), item.label) for item in read_back] == [
            (item.start, item.end, "_".join(item.label.split())) for item in intervals if item.label
        ]


SCRAPS = {
    "a.TextGrid": [SHORT, LONG, SHORT[:60], '"', "<exists>", "<absent>", "2\n", "-1\n", "1e999\n", "!", "\n"],
    "a.ctm": [CTM, "a 1 0 1 x\n", "a", " ", "\n", "1e999", "nan", "-1", ";;", "NA", "<ALT>", "\t"],
    "a.tsv": ["tier\tstart\tend\tlabel\n", "0\t1\ta\n", "w\t0\t1\ta\n", "\t", "\n", "-1", "inf", "\u2028", "0"],
    "a.json": [
        '{"w": [{"start": 0, "end": 1, "label": "a"}]}',
        '{"segments": [',
        "]",
        "}",
        "[",
        "{",
        '"a":',
        "0",
        "1e9",
    ],
    "a.txt": ["0\t1\ta\n", "\\\t1\t2\n", "\t", "\n", "nan", "-1", "0"],
}


@settings(max_examples=150)
@given(st.data())
def test_any_text_gives_intervals_or_a_reason(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SCRAPS)))
    parts = st.one_of(st.sampled_from(SCRAPS[name]), st.text(max_size=4))
    content = "".join(data.draw(st.lists(parts, max_size=8))).encode("utf-8", "surrogatepass")
    try:
        result = read_alignment(save(tmp_path, name, content))
    except BadSample:
        return
    assert all(0 <= item.start <= item.end < float("inf") for intervals in result.values() for item in intervals)
