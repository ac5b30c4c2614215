"""The benchmark of default models outside of their data: how films, sounds and pictures are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import outside
from benchmarks.command import main
from benchmarks.outside import EXACT, FALSE_BORDERS, MODELS, film_scores, films, recordings, tables
from benchmarks.results import Measured, Result, Row
from hrt_mm.config import load_config


def test_borders_in_films_are_right_wrong_or_within_a_fade() -> None:
    borders = [{"kind": "fade", "start": "0.0", "end": "1.6"}, {"kind": "cut", "start": "5.0", "end": "5.0"}]
    scores, wrong = film_scores([1.5, 5.1, 7.0], borders, 0.12)
    assert (scores.hits, scores.predicted, scores.reference, wrong) == (1, 2, 1, 0)
    scores, wrong = film_scores([5.2], borders, 0.12)
    assert (scores.hits, scores.predicted, scores.reference, wrong) == (0, 1, 1, 0)
    scores, wrong = film_scores([1.0, 2.0], [], 0.12)
    assert (scores.hits, scores.predicted, scores.reference, wrong) == (0, 2, 0, 2)


def test_films_come_with_their_borders(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "SOURCE.txt"):
        (tmp_path / name).touch()
    (tmp_path / "borders.tsv").write_text("file\tkind\tstart\tend\nb.mp4\tcut\t1.5\t1.5\n")
    listed = {path.name: borders for path, borders in films(tmp_path)}
    assert list(listed) == ["a.webm", "b.mp4"] and not listed["a.webm"]
    assert listed["b.mp4"] == [{"file": "b.mp4", "kind": "cut", "start": "1.5", "end": "1.5"}]


def test_the_recordings_are_those_for_tests(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(80, 0.1), 8000)
    (tmp_path / "index.tsv").write_text("path\tword\tsplit\na.wav\tone\ttest\nmissing.wav\ttwo\ttrain\n")
    [(sound, word)] = recordings(tmp_path, False)
    assert word == "one" and sound.rate == 8000 and len(sound.waveform_S) == 80


def test_each_model_is_a_packaged_configuration_with_its_own_data() -> None:
    for name in MODELS:
        assert "root" not in type(load_config(name).data).model_fields


def test_the_table_shows_inside_beside_outside() -> None:
    inside = Measured(seconds=1.0, scores={"strings right": 0.95})
    contenders = {"synthetic voices": inside, "FSDD": Measured(seconds=None, scores={EXACT: 0.25})}
    films = {"rendered video": Measured(seconds=1.0, scores={"F1 of cuts": 1.0})}
    films["films"] = Measured(seconds=None, scores={"F1 of cuts": 0.75, FALSE_BORDERS: 17.0})
    unfit = {"synthetic voices": inside, "FSDD": Measured(seconds=None, scores={"accuracy": None}, note="no phonemes")}
    rows = [
        Row(sizes={"model": name}, contenders=one, ratios={})
        for name, one in (("audio/a", contenders), ("video/quickstart", films), ("audio/synthetic", unfit))
    ]
    text = tables(
        Result(
            name="outside",
            command="",
            device="",
            quick=False,
            versions={},
            threads=1,
            settings={},
            checks={},
            rows=rows,
        )
    )
    assert "| synthetic voices: strings right 95.0% | FSDD: digits alone and right 25.0% |" in text
    assert "F1 of cuts 1.00 | films: F1 of cuts 0.75, false borders in films without any 17 |" in text
    assert "| FSDD: no phonemes |" in text
    goals = {bar.claim: bar.met for bar in outside._bars(rows)}
    assert goals == {
        "`video/quickstart`, films, F1 of cuts": False,
        f"`video/quickstart`, films, {FALSE_BORDERS}": False,
        "`audio/synthetic`, FSDD, accuracy": False,
    }


def test_it_needs_the_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(outside.arguments(), outside.run, outside.tables, ["--quick", "--device", "cpu"]) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err
