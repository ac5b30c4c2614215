from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import streaming
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.metrics.edits import edit_distance
from tests.modalities.speech.test_transcribe import run as tones_run

run = tones_run
"""A causal run that tells three tones."""


@pytest.mark.parametrize("length", [0, 1, 40])
def test_error_rates_are_edits_over_words(length: int) -> None:
    generator = np.random.default_rng(length)
    result, true = generator.choice(list("abc"), length).tolist(), generator.choice(list("abc"), 30).tolist()
    assert streaming.error_rate(result, true) == pytest.approx(edit_distance(result, true) / 30)


def test_it_measures_a_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "streaming-cpu.json"
    assert main(streaming.arguments(), streaming.run, streaming.tables, [
        str(run), "--quick", "--device", "cpu", "--threads", "1", "--json", str(file)
    ]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "| minutes of sound | peak MiB of the process |" in out and "| 37 |" in out
    result = read(file)
    assert len(result.checks) == 4 and max(result.checks.values()) < 1e-4
    assert [row.sizes["what"] for row in result.rows] == ["file"] * 2 + ["chunks"] * 4
    for row in result.rows[:2]:
        stream = row.contenders["stream"]
        assert stream.bytes is not None and stream.bytes > 50 << 20 and stream.scores["word_error_rate"] is not None
        assert stream.scores["word_error_rate"] < 0.2


def test_other_runs_are_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(streaming.arguments(), streaming.run, streaming.tables, [str(tmp_path), "--quick"]) == 1
    assert "is not a run folder" in capsys.readouterr().err
