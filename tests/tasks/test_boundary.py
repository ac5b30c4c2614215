from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, Boundary, BoundaryConfig
from hrt_mm.tasks.boundary import peaks
from hrt_mm.train.meters import Meters, means

Make = Callable[..., HierarchyConfig]


def config(**options: Any) -> BoundaryConfig:
    return BoundaryConfig.model_validate({"type": "boundary", "unit": "thirds", **options})


def marked(values: Sequence[Tensor], starts: Sequence[Sequence[int]]) -> Batch:
    masks = []
    for value, own in zip(values, starts, strict=True):
        mask = torch.zeros(len(value), dtype=torch.bool)
        mask[list(own)] = True
        masks.append(mask)
    return Batch.of(Tokens.pack(values, boundaries={"thirds": masks}))


def metrics(task: Boundary, batches: Sequence[Batch]) -> dict[str, float]:
    meters = Meters()
    for batch in batches:
        meters.add(task(batch), batch)
    return means(meters.sums(), "val")


def test_it_is_registered() -> None:
    assert TASKS["boundary"] is BoundaryConfig
    assert config().boundaries == ("thirds",)


@pytest.mark.parametrize(
    ("chances", "width", "positions"),
    [
        ([0, 0, 0.9, 0, 0], 0, [2]),
        ([0.9, 0, 0, 0, 0], 0, []),  # where every sample starts
        ([0, 0.2, 0.3, 0.2, 0, 0], 1, [2]),  # one boundary, of which it is not sure where
        ([0, 0.3, 0.3, 0, 0, 0], 1, [1]),
        ([0, 0.9, 0.9, 0, 0, 0], 1, [1]),  # two at once are one
        ([0, 0.9, 0, 0, 0.8, 0], 1, [1, 4]),
        ([0, 0.2, 0, 0, 0.2, 0], 1, []),
        ([], 2, []),
        ([0.7], 2, []),
    ],
)
def test_peaks_of_summed_chances(chances: list[float], width: int, positions: list[int]) -> None:
    assert peaks(np.array(chances), width, 0.5).tolist() == positions


def test_the_loss_leaves_out_first_tokens(hierarchy: Make, rows: Tokenizer, unzero: Callable[..., None]) -> None:
    task = config().build(hierarchy(2, top_down=True), rows, None)
    unzero(task)
    values = [torch.randn(5, 4), torch.randn(1, 4), torch.randn(3, 4)]
    output = task.train()(marked(values, [[0, 3], [0], [1]]))
    logits = task.logits(task.encoder(marked(values, [[], [], []]).tokens)[0].x)
    kept = torch.tensor([1, 2, 3, 4, 7, 8])
    truth = torch.tensor([0, 0, 1, 0, 1, 0]).float()
    assert torch.allclose(output.loss, F.binary_cross_entropy_with_logits(logits[kept], truth))
    assert output.stats["loss"][1] == 6


def test_scores_are_exact_over_batches(hierarchy: Make, rows: Tokenizer) -> None:
    """The head reads the last feature of a row as the logit."""
    task = _reader(hierarchy, rows, width=0)
    samples = [(12, [4, 7], [0, 4, 8]), (9, [2], [0, 5]), (6, [], [])]
    values, truths = [], []
    for length, said, truth in samples:
        value = torch.zeros(length, 4)
        value[:, 3] = -9.0
        value[said, 3] = 9.0
        values.append(value)
        truths.append(truth)
    whole = marked(values, truths)
    result = metrics(task, [whole])
    assert result["val/f1_0"] == pytest.approx(2 * 1 / (3 + 3))
    assert result["val/f1_1"] == pytest.approx(2 * 2 / (3 + 3))
    assert result["val/precision_1"] == result["val/recall_1"] == pytest.approx(2 / 3)
    assert result["val/error"] == pytest.approx(1 / 2)
    apart = metrics(task, [marked([value], [truth]) for value, truth in zip(values, truths, strict=True)])
    assert apart == pytest.approx(result)
    output = task(whole)
    assert output.predictions is not None
    assert output.predictions.nonzero().flatten().tolist() == [0, 4, 7, 12, 14, 21]


def test_tolerances_are_seconds_where_tokens_are_time(hierarchy: Make, rows: Tokenizer) -> None:
    class Timed(type(rows)):  # type: ignore[misc]
        seconds_per_token = 0.01

    task = _reader(hierarchy, Timed(), width=0)
    assert task.monitor == "f1_40ms"
    value = torch.full((30, 4), -9.0)
    value[[10, 23], 3] = 9.0
    result = metrics(task, [marked([value], [[0, 12, 27]])])
    assert result["val/f1_20ms"] == pytest.approx(1 / 2)
    assert result["val/f1_40ms"] == 1
    assert result["val/error_ms"] == pytest.approx(30)
    assert 0 <= result["val/f1_40ms_random"] <= 1
    assert result["val/f1_40ms_even"] == 0.5


def test_tokens_on_several_axes_are_refused(hierarchy: Make, rows: Tokenizer) -> None:
    class Grid(type(rows)):  # type: ignore[misc]
        axes = 2

    with pytest.raises(ConfigError, match="one axis, and the modality has 2"):
        config().build(hierarchy(1), Grid(), None)


def test_boundaries_are_learned_that_neighbours_alone_do_not_tell(hierarchy: Make, rows: Tokenizer) -> None:
    """A boundary follows two tokens after a mark; as many even and random cuts stay far behind."""
    torch.manual_seed(0)
    task = config(width=0).build(hierarchy(2, top_down=True), rows, None)
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for _ in range(200):
        task.train()(_delayed(16)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    result = metrics(task.eval(), [_delayed(64)])
    assert result["val/f1_0"] > 0.8
    assert result["val/f1_0_even"] < 0.5
    assert result["val/f1_0_random"] < 0.5


def _delayed(count: int) -> Batch:
    values, starts = [], []
    for length in torch.randint(8, 20, (count,)).tolist():
        value = 0.3 * torch.randn(length, 4)
        marks = (torch.rand(length) < 0.15).nonzero().flatten().tolist()
        value[marks, 0] += 3
        values.append(value)
        starts.append([0, *(mark + 2 for mark in marks if mark + 2 < length)])
    return marked(values, starts)


def _reader(hierarchy: Make, rows: Tokenizer, **options: Any) -> Boundary:
    task = config(**options).build(hierarchy(1), rows, None).eval()
    task.encoder.embedding = torch.nn.Identity()
    task.encoder.add_module("hierarchy", _Plain())
    task.head = torch.nn.Linear(4, 1)
    with torch.no_grad():
        task.head.weight.copy_(torch.tensor([[0.0, 0, 0, 1]]))
        task.head.bias.zero_()
    return task


class _Plain(torch.nn.Module):
    """A hierarchy that hands on what it gets."""

    def forward(self, tokens: Tokens) -> Pyramid:
        return Pyramid(("a",), {"a": tokens})
