from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import equal_time
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.config import load_config


def test_a_quick_run_trains_both_on_real_digits(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(data_root))
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "2", "--json", str(path)]
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, argv) == 0
    row = read(path).rows[0]
    assert set(row.contenders) == {"hierarchy", "flat"}
    steps = {}
    for name, measured in row.contenders.items():
        accuracy, errors = measured.scores["test/accuracy"], measured.scores["test/errors"]
        assert accuracy is not None and errors == round((1 - accuracy) * 10_000)
        steps[name] = measured.scores["steps"] or 0
        batch_size = load_config(equal_time.CONTENDERS[name]).train.batch_size
        assert batch_size is not None and measured.scores["samples"] == steps[name] * batch_size
    assert min(steps.values()) > 0
    assert row.ratios["hierarchy/flat steps"] == steps["hierarchy"] / steps["flat"]


def test_it_needs_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, ["--quick", "--device", "cpu"]) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err
