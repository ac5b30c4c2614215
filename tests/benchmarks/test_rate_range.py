"""Which rates count as ones that train, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rate_range import RATES, configuration, tables, trains
from benchmarks.results import Measured, Result, Row
from hrt_mm.core.errors import UserError


def row(*accuracies: float | None) -> Row:
    contenders = {
        f"{rate:g}": Measured(seconds=None if accuracy is None else 1.0, scores={"accuracy": accuracy})
        for rate, accuracy in zip(RATES, accuracies, strict=True)
    }
    return Row(sizes={"config": "vision/digits", "minutes": 0.3}, contenders=contenders, ratios={})


def test_rates_within_the_tolerance_of_the_best_train() -> None:
    assert trains(row(0.5, 0.88, 0.9, 0.871, 0.869, None, 0.1)) == ["0.0003", "0.001", "0.003"]


def test_a_rate_that_diverged_is_named() -> None:
    result = Result(
        name="rate_range",
        command="python -m benchmarks.rate_range",
        device="CPU",
        quick=False,
        versions={},
        threads=1,
        settings={"rates": list(RATES)},
        checks={},
        rows=[row(0.5, 0.88, 0.9, 0.871, 0.869, None, 0.1)],
    )
    assert "| diverged | 10.0% | 0.0003, 0.001, 0.003 |" in tables(result)


def test_text_needs_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        configuration("text/documents", tmp_path)
