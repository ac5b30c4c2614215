from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hrt_mm.data.time_span import TimeSpan
from hrt_modalities.audio.alignments import read_alignment
from hrt_modalities.speech.transcripts import FORMATS

WORDS = [
    TimeSpan(0.5, 0.75, "bin", 0.9),
    TimeSpan(0.75, 1.0, "blue", 0.8),
    TimeSpan(2.25, 2.5, '"at"', 0.7),
    TimeSpan(3.0, 3.5, "größe", 1.0),
]


def shown(kind: str, words: list[TimeSpan]) -> tuple[list[str], str]:
    """What stood there after each word, and at the end."""
    out = io.StringIO()
    transcript = FORMATS[kind](out, "a talk", "words")
    steps = []
    for word in words:
        transcript.add(word)
        steps.append(out.getvalue())
    transcript.end(4.0)
    return steps, out.getvalue()


@pytest.mark.parametrize(("kind", "ending"), [("ctm", ".ctm"), ("json", ".json"), ("textgrid", ".TextGrid")])
def test_they_are_alignments_that_can_be_read(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_text(shown(kind, WORDS)[1], encoding="utf-8")
    (result,) = read_alignment(path).values()
    expected = [TimeSpan(word.start, word.end, word.label) for word in WORDS]
    assert [interval for interval in result if interval.label] == expected
    assert kind != "textgrid" or result[-1] == TimeSpan(3.5, 4.0, "")


@pytest.mark.parametrize("kind", ["text", "ctm", "json"])
def test_words_are_there_once_they_are_finished(kind: str) -> None:
    steps, end = shown(kind, WORDS)
    for word, step in zip(WORDS, steps, strict=True):
        assert step.count("\n") >= 1 or kind == "json"
        label = json.dumps(word.label, ensure_ascii=False) if kind == "json" else word.label
        assert label in step and end.startswith(step)


def test_lines_and_confidence() -> None:
    assert shown("text", WORDS[:1])[1] == "     0.50      0.75  bin\n"
    assert shown("ctm", WORDS[:1])[1] == "a_talk 1 0.5 0.25 bin 0.90\n"


def test_captions_end_at_pauses_and_do_not_grow() -> None:
    end = shown("srt", WORDS)[1]
    assert end == ('1\n00:00:00,500 --> 00:00:01,000\nbin blue\n\n2\n00:00:02,250 --> 00:00:03,500\n"at" größe\n')
    many = [TimeSpan(at / 4, at / 4 + 0.25, "w", 1.0) for at in range(50)]
    assert shown("srt", many)[1].count("-->") == 5


@pytest.mark.parametrize("kind", FORMATS)
def test_no_word_at_all(tmp_path: Path, kind: str) -> None:
    _, end = shown(kind, [])
    if kind in ("json", "textgrid"):
        path = tmp_path / ("x.json" if kind == "json" else "x.TextGrid")
        path.write_text(end)
        assert not [item for item in read_alignment(path)["words"] if item.label]
    else:
        assert end == ""
