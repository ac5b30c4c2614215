"""Segmentation: kinds of borders, what counts as one, labels of segments, and that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, Segmentation, SegmentationConfig
from hrt_mm.tasks.segmentation import pick_borders

CLASSES = ("low", "high")


class Marked(Tokenizer):
    """Rows of 4 features with the places of borders: (rows, {name: places})."""

    axes = 1
    levels = ("rows",)
    boundaries = ("hard", "soft", "pairs")

    def __call__(self, values: Sequence[Any]) -> Tokens:
        masks: dict[str, list[Tensor]] = {name: [] for name in self.boundaries}
        for rows, positions in values:
            for name, item in masks.items():
                mask = torch.zeros(len(rows), dtype=torch.bool)
                mask[positions.get(name, [])] = True
                mask[0] = True
                item.append(torch.arange(len(rows)) % 2 == 0 if name == "pairs" else mask)
        return Tokens.pack([rows for rows, _ in values], boundaries=masks)

    def embedding(self, dim: int) -> nn.Module:
        return Rows(dim)


class Rows(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(4, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_x(self.project(tokens.x))


def config(**options: Any) -> SegmentationConfig:
    given = {"type": "segmentation", "borders": {"hard": {}, "soft": {"tolerance": 2, "width": 1}}, **options}
    return SegmentationConfig.model_validate(given)


def hierarchy(**options: Any) -> HierarchyConfig:
    level = {"name": "rows", "dim": 16, "depth": 1, "heads": 2, "window": 4, "window_type": "sliding", **options}
    return HierarchyConfig.model_validate({"levels": [level]})


def values() -> list[Any]:
    return [
        (torch.zeros(10, 4), {"hard": [3], "soft": [7]}),
        (torch.zeros(5, 4), {}),
        (torch.zeros(6, 4), {"soft": [1, 5]}),
    ]


LABELS = [["low", "high", "low"], ["high"], ["low", "low", "high"]]


def batch(task: SegmentationConfig, labels: list[Any] = LABELS) -> Batch:
    tokens = Marked()(values())
    samples = [Sample(value, label, f"s{n}") for n, (value, label) in enumerate(zip(values(), labels, strict=True))]
    return Batch.of(tokens, task.targets(samples, tokens, CLASSES), ("s0", "s1", "s2"))


def test_it_is_registered() -> None:
    assert TASKS["segmentation"] is SegmentationConfig


def test_targets_are_kinds_of_steps_and_labels_of_segments() -> None:
    target = batch(config()).target
    assert target is not None
    kinds, labels = target[:21].tolist(), target[21:].tolist()
    assert kinds[:10] == [0, 0, 0, 1, 0, 0, 2, 2, 2, 0]
    # A slow border does not spread into the sample before, nor past the end.
    assert kinds[10:15] == [0] * 5 and kinds[15:] == [2, 2, 2, 0, 2, 2]
    assert labels == [0, 1, 0, 1, 0, 0, 1]


def test_steps_may_be_runs_of_tokens() -> None:
    target = batch(config(unit="pairs", labels=False)).target
    assert target is not None
    assert target.tolist()[:5] == [0, 1, 2, 2, 2] and len(target) == 5 + 3 + 3


def test_borders_that_overlap_go_to_the_nearer_one() -> None:
    task = config(labels=False, borders={"hard": {"width": 2}, "soft": {"width": 2}})
    tokens = Marked()([(torch.zeros(8, 4), {"hard": [2], "soft": [5]})])
    assert task.kinds(tokens).tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["low"], ["high"], ["low"] * 3], "s0: has 1 labels and 3 segments"),
        (["low", ["high"], ["low"] * 3], "s0: task segmentation needs a list of labels, got 'low'"),
        ([["low"] * 3, ["odd"], ["low"] * 3], "odd"),
    ],
)
def test_labels_that_do_not_fit(labels: list[Any], message: str) -> None:
    with pytest.raises(BadSample, match=message):
        batch(config(), labels)


def test_settings_that_disagree() -> None:
    with pytest.raises(ConfigError, match=r"set task.labels: false"):
        config().build(hierarchy(), Marked(), None)
    with pytest.raises(ConfigError, match=r"task.monitor accuracy is of labels"):
        config(labels=False, monitor="accuracy").build(hierarchy(), Marked(), None)
    with pytest.raises(ValidationError, match="at least 1 item"):
        config(borders={})
    assert config(unit="pairs").boundaries == ("pairs", "hard", "soft")


def test_steps_in_a_row_are_one_border_at_their_middle() -> None:
    none = np.ones(12)
    none[[0, 3, 6, 7, 8]] = [0.0, 0.4, 0.3, 0.1, 0.2]
    chances = np.stack([none, np.zeros(12), 1 - none], 1)
    chances[3] = [0.4, 0.5, 0.1]
    result = pick_borders(chances, 0.5)
    assert [(index, kind) for index, kind, _ in result] == [(3, 0), (7, 1)]
    assert [chance for _, _, chance in result] == pytest.approx([0.6, 0.9])
    assert pick_borders(np.ones((0, 3)), 0.5) == [] and pick_borders(chances, 0.95) == []


def test_scores_are_exact_over_batches() -> None:
    task = config().build(hierarchy(), Marked(), CLASSES).eval()
    assert isinstance(task, Segmentation)
    one = batch(config())
    # A head that knows the first row alone: it finds the hard border, one of the soft ones, and one that is none.
    expected = torch.zeros(21, 3)
    expected[:, 0] = 5
    for index, kind in ((3, 1), (9, 2), (12, 1)):
        expected[index, kind] = 20
    stats = task._scores(one.tokens, expected)
    assert [int(part) for part in stats["f1/hard"]] == [2, 3]
    assert [int(part) for part in stats["f1/soft"]] == [2, 1 + 3]
    assert [int(part) for part in stats["f1"]] == [4, 3 + 4]


def learnable(generator: torch.Generator) -> tuple[Any, list[str]]:
    """Rows about 1 or -1; where a row starts a new segment is a jump of its second feature, at once or over 3 rows."""
    parts: list[Tensor] = []
    positions: dict[str, list[int]] = {"hard": [], "soft": []}
    labels: list[str] = []
    at = 0
    for number in range(int(torch.randint(2, 5, (), generator=generator))):
        length = int(torch.randint(8, 14, (), generator=generator))
        high = bool(torch.rand((), generator=generator) < 0.5)
        rows = 0.3 * torch.randn(length, 4, generator=generator)
        rows[:, 0] += 1 if high else -1
        if number:
            kind = ("hard", "soft")[int(torch.randint(2, (), generator=generator))]
            positions[kind].append(at)
            rows[0, 1 if kind == "hard" else 2] += 4
            if kind == "soft":
                rows[1, 2] += 4
                parts[-1][-1, 2] += 4
        labels.append(CLASSES[high])
        parts.append(rows)
        at += length
    return (torch.cat(parts), positions), labels


def test_it_learns_borders_kinds_and_labels_and_chance_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [learnable(generator) for _ in range(48)]
    rows, task = Marked(), config()
    samples = [Sample(value, label, str(number)) for number, (value, label) in enumerate(pairs)]

    def packed(chosen: list[Sample]) -> Batch:
        tokens = rows([sample.value for sample in chosen])
        return Batch.of(tokens, task.targets(chosen, tokens, CLASSES))

    train, test = packed(samples[:36]), packed(samples[36:])
    model = task.build(hierarchy(), rows, CLASSES)
    before = {name: float(top / total) for name, (top, total) in model.eval()(test).stats.items()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        model(train).loss.backward()
        optimizer.step()
    output = model.eval()(test)
    after = {name: float(top / total) for name, (top, total) in output.stats.items()}
    assert after["f1/hard"] > 0.9 and after["f1/soft"] > 0.9 and after["f1"] > 0.9 and after["accuracy"] > 0.9
    assert max(before["f1/hard"], before["f1/soft"]) < 0.7 and before["accuracy"] < 0.8
    result = model.segments(test.tokens)
    first = result[0]
    assert [segment.label for segment in first] == samples[36].label
    assert first[0].first == 0 and first[0].border is None and first[-1].end == len(samples[36].value[0])
    assert all(one.end == two.first for one, two in pairwise(first))
    assert {segment.border for segment in first[1:]} <= {"hard", "soft"}


def test_segments_of_steps_that_are_read_already() -> None:
    model = config().build(hierarchy(), Marked(), CLASSES).eval()
    tokens = Marked()(values())
    units_UD, _ = model.steps(tokens)
    assert model.segments_of(units_UD, Spans.from_lengths([10, 5, 6])) == model.segments(tokens)
