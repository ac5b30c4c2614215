from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import recognition
from benchmarks.command import main
from benchmarks.recognition import Cuts
from benchmarks.results import read
from tests.modalities.audio.small_corpora import fsdd, grid


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up sentences and digits, with the times of their words."""
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    (tmp_path / "grid_s1").mkdir()
    grid(tmp_path / "grid_s1")
    (tmp_path / "fsdd").mkdir()
    fsdd(tmp_path / "fsdd", takes=12)
    return tmp_path


def test_a_quick_run_trains_measures_and_keeps(data: Path) -> None:
    path = data / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "1", "--runs", str(data / "runs"), "--json", str(path)]
    argv += ["--only", "digits", "boundaries"]
    assert main(recognition.arguments(), recognition.run, recognition.tables, argv) == 0
    rows = {name: one for row in read(path).rows for name, one in row.contenders.items()}
    assert set(rows) == {"digits", "boundaries"}
    assert rows["boundaries"].scores["found f1 40 ms"] is not None
    assert rows["digits"].scores["steps"] == 2
    assert rows["digits"].scores["true words"]
    # What is there is taken.
    summary = data / "runs" / "digits" / "summary.json"
    before = summary.stat().st_mtime_ns
    options = recognition.arguments().parse_args(["--quick"])
    options.device = torch.device("cpu")
    assert recognition.train("digits", data / "runs", options) == summary.parent
    assert summary.stat().st_mtime_ns == before


def test_it_needs_the_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(recognition.arguments(), recognition.run, recognition.tables, ["--quick", "--device", "cpu"]) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err


def test_cuts_are_scored_beside_those_that_know_nothing() -> None:
    cuts, generator = Cuts(), np.random.default_rng(0)
    cuts.add([0.0, 0.51, 0.97, 3.0], [0.0, 0.5, 1.0, 2.0], 3.0, generator)
    cuts.add([], [0.0], 1.0, generator)
    result = cuts.figures()
    assert result["found f1 20 ms"] == pytest.approx(2 * 1 / (2 + 3))
    assert result["found f1 40 ms"] == pytest.approx(2 * 2 / (2 + 3))
    assert result["recall 40 ms"] == pytest.approx(2 / 3)
    assert result["error 40 ms"] == pytest.approx(20)
    assert result["even f1 40 ms"] == 0
    assert 0 < (result["random f1 40 ms"] or 0) < 0.3
