from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import fsdd
from benchmarks.command import main
from benchmarks.results import Measured, Result, Row, read
from hrt_mm.core.errors import UserError
from tests.modalities.audio.small_corpora import table

WORDS = ("low", "high")
QUICK = ["--quick", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tones of two pitches in place of digits, by two speakers."""
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    draw = np.random.default_rng(0)
    rows = []
    for speaker in fsdd.SPEAKERS[:2]:
        for word, hertz in zip(WORDS, (300, 900), strict=True):
            for take in range(40):
                path = tmp_path / "fsdd" / "wav" / f"{word}_{speaker}_{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                wave = 0.3 * np.sin(np.arange(1600) * hertz * draw.uniform(0.9, 1.1) / 8000 * 6.28)
                soundfile.write(path, wave + draw.normal(0, 0.01, 1600), 8000)
                split = "test" if take < 5 else "train"
                row = {"path": f"wav/{path.name}", "word": word, "arpabet": "AA1", "speaker": speaker, "split": split}
                rows.append(row)
    table(tmp_path / "fsdd" / "index.tsv", rows)
    return tmp_path


def test_a_quick_run_trains_both_and_keeps_them(data: Path) -> None:
    path = data / "result.json"
    argv = [*QUICK, "--runs", str(data / "runs"), "--json", str(path)]
    assert main(fsdd.arguments(), fsdd.run, fsdd.tables, argv) == 0
    result = read(path)
    assert [row.sizes["fold"] for row in result.rows] == [fsdd.SPEAKERS[0]]
    assert result.checks["parameters"] < fsdd.TOLERANCE
    for row in result.rows:
        assert set(row.contenders) == {"hierarchy", "flat", "nearest"}
        assert row.contenders["nearest"].scores["test/accuracy"] == 1.0
        assert row.contenders["hierarchy"].scores["steps"]
    # What is there is taken, and what is of another length is not.
    folder = data / "runs" / "george-flat"
    before = (folder / "summary.json").stat().st_mtime_ns
    summary = fsdd.train("flat", "george", 0.01, folder)
    assert (folder / "summary.json").stat().st_mtime_ns == before and summary["steps"]
    with pytest.raises(UserError, match="another configuration"):
        fsdd.train("flat", "george", 4.0, folder)


def test_it_needs_the_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(fsdd.arguments(), fsdd.run, fsdd.tables, QUICK) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err


def test_the_control_may_lack_folds() -> None:
    def row(fold: str, **accuracies: float) -> Row:
        contenders = {
            name: Measured(seconds=2.0, scores={"test/accuracy": accuracy, "parameters": 10, "steps": 3})
            for name, accuracy in accuracies.items()
        }
        return Row(sizes={"fold": fold}, contenders=contenders, ratios={})

    rows = [
        row(fsdd.OFFICIAL, hierarchy=0.99, flat=0.9, nearest=0.95),
        row("theo", hierarchy=0.8, flat=0.7, nearest=0.5),
        row("lucas", hierarchy=0.6, nearest=0.3),
    ]
    assert fsdd.means(rows, ["hierarchy"]) == {"hierarchy": pytest.approx(0.7)}
    assert fsdd.means(rows) == {"hierarchy": pytest.approx(0.8), "flat": pytest.approx(0.7), "nearest": 0.5}
    assert [bar.met for bar in fsdd._bars(rows, 1.0)] == [True]
    all_of_them = [rows[0], *(row(speaker, hierarchy=0.8, nearest=0.5) for speaker in fsdd.SPEAKERS)]
    assert [bar.met for bar in fsdd._bars(all_of_them, 1.0)] == [True, False]
    result = Result(
        name="fsdd", command="", device="", quick=False, versions={}, threads=1, settings={"configs": fsdd.CONFIGS},
        checks={}, rows=rows,
    )  # fmt: skip
    lines = fsdd.tables(result).splitlines()
    assert "| all but lucas, who is tested | 60.0% |  | 30.0% |" in lines
    assert "| **mean over these speakers** | **70.0%** |  | **40.0%** |" in lines
    assert "| **where the control was trained** | **80.0%** | **70.0%** | **50.0%** |" in lines
