from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import equal_time
from benchmarks.command import main
from benchmarks.results import read


def test_a_quick_run_trains_both_on_real_digits(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(data_root))
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "2", "--json", str(path)]
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, argv) == 0
    row = read(path).rows[0]
    assert set(row.contenders) == {"hierarchy", "flat"}
    for measured in row.contenders.values():
        assert measured.scores["steps"]
        accuracy = measured.scores["test/accuracy"]
        assert accuracy is not None
        assert 0 < accuracy <= 1


def test_it_needs_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, ["--quick", "--device", "cpu"]) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err
