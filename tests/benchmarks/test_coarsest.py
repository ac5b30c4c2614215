from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.coarsest import NAME, arguments, run, tables
from benchmarks.command import main
from benchmarks.results import read


def test_the_coarsest_level_is_a_part_of_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert main(arguments(), run, tables, ["--quick", "--device", "cpu", "--json", str(path)]) == 0
    result = read(path)
    assert result.name == NAME
    # Two strides of 4.
    assert [(row.sizes["tokens"], row.sizes["coarsest"]) for row in result.rows] == [(64, 4), (128, 8)]
    for row in result.rows:
        assert 0 < row.ratios["bytes"] < 1
    whole = [row.contenders["whole"].bytes or 0 for row in result.rows]
    assert whole[1] == pytest.approx(2 * whole[0], rel=0.05)
    assert "| 128 | 8 |" in capsys.readouterr().out
