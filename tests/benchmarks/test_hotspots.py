"""Seconds by operator."""

from __future__ import annotations

import pytest
import torch

from benchmarks.hotspots import compare


def test_the_operator_that_one_contender_alone_runs_is_found() -> None:
    x = torch.randn(200, 200)
    calls = {"first": lambda: (x @ x).sort(), "second": lambda: x @ x}
    lines = compare(calls, torch.device("cpu"), repeats=3, gain=2.0, most=3)
    by_name = {line["operator"]: line for line in lines}
    assert by_name["aten::sort"]["first"] > 0
    assert by_name["aten::sort"]["second"] == 0
    assert [line["operator"] for line in lines[-2:]] == ["all operators", "outside operators"]
    assert len(lines) == 3 + 2
    total = by_name["all operators"]
    assert total["over_ideal"] == pytest.approx(total["first"] - total["second"] / 2)
