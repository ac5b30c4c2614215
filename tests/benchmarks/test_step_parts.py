"""The clock of the benchmark of a step's parts."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.results import Measured, Result, Row
from benchmarks.step_parts import FIRST_STEPS, PARTS, StepClock, tables
from hrt_mm import Hierarchy, HierarchyConfig, Tokens


class Toy(nn.Module):
    """An embedding, a hierarchy of two levels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 8)
        levels = [
            {"name": "fine", "dim": 8, "depth": 1, "heads": 2, "group": {"type": "fixed", "stride": 2}},
            {"name": "coarse", "dim": 8, "depth": 1, "heads": 2},
        ]
        self.hierarchy = Hierarchy(HierarchyConfig.model_validate({"levels": levels}), axes=1)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: Tokens) -> Tensor:
        pyramid = self.hierarchy(tokens.with_x(self.embedding(tokens.x)))
        loss: Tensor = self.head(pyramid["coarse"].x).sum()
        return loss


def test_every_second_of_a_step_is_of_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Toy()
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    clock, ticks = StepClock(torch.device("cpu")), count()
    monkeypatch.setattr(clock, "now", lambda: float(next(ticks)))
    run: Any = SimpleNamespace(task=task, optimizer=optimizer)
    clock.on_start(run)
    tokens = Tokens.pack([torch.randn(5, 8), torch.randn(3, 8)])
    for _ in range(FIRST_STEPS + 3):
        optimizer.zero_grad()
        task(tokens).backward()
        optimizer.step()
        clock.on_step(run)
    medians = clock.medians()
    # A tick for each reading: before and after the task, its embedding, the hierarchy and its two stages, and the rest.
    assert {part: medians[part] / 1e3 for part in PARTS} == {
        "data": 1, "embedding": 1, "blocks": 2, "between levels": 3, "heads": 3, "backward": 1, "optimizer": 1,
        "rest": 1,
    }  # fmt: skip
    assert medians["step"] == sum(medians[part] for part in PARTS)


def test_shares_are_of_the_step() -> None:
    scores: dict[str, float | None] = dict.fromkeys(PARTS, 0.0)
    scores |= {"backward": 30.0, "data": 10.0, "step": 40.0}
    row = Row(
        sizes={"config": "vision/digits"}, contenders={"hierarchy": Measured(seconds=0.04, scores=scores)}, ratios={}
    )
    result = Result(
        name="step_parts", command="", device="CPU", quick=False, versions={}, threads=1, settings={"steps": 3},
        checks={}, rows=[row],
    )  # fmt: skip
    assert "| vision/digits | hierarchy | 40.0 | 25% | 0% | 0% | 0% | 0% | 75% | 0% | 0% |" in tables(result)
