from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import scaling_ranks
from benchmarks.checks import CheckFailed
from benchmarks.results import Measured, Result
from hrt_mm.config import RunConfig


def result(monkeypatch: pytest.MonkeyPatch, losses: dict[str, float], *words: str) -> tuple[Result, list[RunConfig]]:
    """With runs that were made up: as fast as there are ranks, and of half the memory where they share a model."""
    trained: list[RunConfig] = []

    def measure(config: RunConfig, folder: Path, ranks: int) -> tuple[Measured, float, int]:
        trained.append(config)
        mode = config.train.parallel
        scores: dict[str, float | None] = {
            "tokens_per_second": 100.0 * ranks, "tokens_per_processor_second": 90.0, "start_bytes": 3e6,
        }  # fmt: skip
        memory = 2_000_000 // (1 if mode in ("auto", "ddp") else 2)
        return Measured(seconds=1.0, bytes=memory, scores=scores), losses.get(mode, 2.0), 1234

    monkeypatch.setattr(scaling_ranks, "measure", measure)
    options = scaling_ranks.arguments().parse_args(["--models", "small", *words])
    options.device, options.command = torch.device("cpu"), "python -m benchmarks.scaling_ranks"
    return scaling_ranks.run(options), trained


def test_every_way_to_share_a_model_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, trained = result(monkeypatch, {})
    assert [(row.sizes["ranks"], [*row.contenders]) for row in measured.rows] == [
        (1, ["single"]), (2, ["ddp", "fsdp2"]), (4, ["ddp", "fsdp2", "hsdp"]),
    ]  # fmt: skip
    assert [(config.train.parallel, config.train.shard_size) for config in trained] == [
        ("auto", None), ("ddp", None), ("fsdp2", None), ("ddp", None), ("fsdp2", None), ("hsdp", 2),
    ]  # fmt: skip
    assert measured.rows[2].ratios["fsdp2/single tokens_per_second"] == 4.0
    assert measured.rows[2].ratios["fsdp2/single bytes"] == 0.5
    (line,) = (line for line in scaling_ranks.tables(measured).splitlines() if "| 4 | fsdp2 |" in line)
    assert line.startswith("| small | 1,234 | 4 | fsdp2 | 1.00 | 400 | 4.00x | 90 | 1.00x | 0.95 | 0.50x | 2.86 |")


def test_other_losses_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckFailed, match=r"small, 2 ranks, fsdp2: the last loss is 2\.01, alone 2\.0"):
        result(monkeypatch, {"fsdp2": 2.01})


def test_steps_are_measured_after_the_first_two(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = scaling_ranks.StepMeter("cpu", 0)
    times = iter([0.0, 5.0, 7.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    run: Any = None
    for _ in range(4):
        meter.on_step(run)
    record = meter.record()
    assert record["wall"] == [2.0, 3.0]
    assert record["bytes"] > 0
    assert record["start_bytes"] > 0
