from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, Tagging, TaggingConfig
from hrt_mm.tasks.encoder import Encoder
from hrt_mm.tasks.tagging import level_spans, mean_over

Make = Callable[..., HierarchyConfig]
CLASSES = ("noun", "verb", "other")
THIRDS = [{"type": "given", "boundary": "thirds", "max": 8}, {"type": "fixed", "stride": 2}]


def config(**options: Any) -> TaggingConfig:
    return TaggingConfig.model_validate({"type": "tagging", **options})


def labelled(rows: Tokenizer, values: list[Tensor], task: TaggingConfig, labels: list[list[Any]]) -> Batch:
    samples = [
        Sample(value, label, f"s{index}") for index, (value, label) in enumerate(zip(values, labels, strict=True))
    ]
    tokens = rows(values)
    return Batch.of(tokens, task.targets(samples, tokens, CLASSES), tuple(sample.name for sample in samples))


def test_it_is_registered() -> None:
    assert TASKS["tagging"] is TaggingConfig


def test_the_level_of_the_unit_is_read_when_none_is_named(hierarchy: Make, rows: Tokenizer) -> None:
    assert config(unit="thirds").build(hierarchy(2, THIRDS[:1]), rows, CLASSES).level == 1
    assert config().build(hierarchy(1), rows, CLASSES).level == 0
    assert config(unit="thirds").build(hierarchy(3, THIRDS, top_down=True), rows, CLASSES).level == 0


@pytest.mark.parametrize("level", ["a", "b", "c"])
@pytest.mark.parametrize("grouped", [True, False])
def test_what_a_unit_reads_is_the_mean_over_its_tokens(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], level: str, grouped: bool
) -> None:
    """Held to a loop over the tokens of each unit."""
    model = hierarchy(groups=THIRDS if grouped else None, top_down=level == "a")
    tokens = rows(samples)
    units, _ = Spans.from_starts(tokens.boundaries["thirds"], tokens.spans)
    pyramid = Encoder(model, rows)(tokens)
    index = "abc".index(level)
    result = mean_over(pyramid, index, units)
    owner = torch.arange(tokens.spans.total)
    if index:
        owner = level_spans(pyramid, index).ids
    expected = [pyramid[index].x[owner[start:stop]].mean(0) for start, stop in pairwise(units.host)]
    assert torch.allclose(result, torch.stack(expected), atol=1e-6)


def test_loss_and_metrics_leave_out_what_has_no_label(hierarchy: Make, rows: Tokenizer) -> None:
    given = config(unit="thirds")
    task = given.build(hierarchy(2, THIRDS[:1]), rows, CLASSES).eval()
    torch.nn.init.normal_(task.head.weight)
    values = [torch.randn(7, 4), torch.randn(1, 4)]
    result = labelled(rows, values, given, [["noun", None, "verb"], [2]])
    assert result.target is not None
    assert result.target.tolist() == [0, -1, 1, 2]
    output = task(result)
    kept = [0, 2, 3]
    logits = task.head(task.encoder(result.tokens)["b"].x)
    assert torch.allclose(output.loss, F.cross_entropy(logits[kept], result.target[kept]))
    right, count = output.stats["accuracy"]
    assert count == 3
    assert right == (logits.argmax(-1) == result.target)[kept].sum()
    assert output.class_counts["macro_f1"][2].tolist() == [1, 1, 1]
    assert output.class_counts["macro_f1"][1].sum() == 3


def test_a_batch_without_labels_trains_nothing(hierarchy: Make, rows: Tokenizer) -> None:
    given = config(unit="thirds")
    task = given.build(hierarchy(2, THIRDS[:1]), rows, CLASSES)
    output = task(labelled(rows, [torch.randn(3, 4)], given, [[None]]))
    assert output.loss == 0
    output.loss.backward()
    assert all(not parameter.grad.any() for parameter in task.parameters() if parameter.grad is not None)


def test_the_wrong_number_of_labels_is_a_bad_sample(hierarchy: Make, rows: Tokenizer) -> None:
    with pytest.raises(BadSample, match=r"s0: has 2 labels and 3 thirds"):
        labelled(rows, [torch.randn(7, 4)], config(unit="thirds"), [["noun", "noun"]])
    with pytest.raises(BadSample, match=r"s0: has 1 labels and 2 tokens"):
        labelled(rows, [torch.randn(2, 4)], config(), [["noun"]])


@pytest.mark.parametrize(
    ("label", "message"), [("noun", "a list of labels"), (["adverb", "x", "y"], "'adverb'"), ([7] * 3, "7")]
)
def test_a_wrong_label_is_a_bad_sample(rows: Tokenizer, label: Any, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        labelled(rows, [torch.randn(7, 4)], config(unit="thirds"), [label])


def test_classes_are_needed(hierarchy: Make, rows: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        config().build(hierarchy(1), rows, None)


def test_units_are_told_apart_by_what_is_in_them(hierarchy: Make, rows: Tokenizer) -> None:
    """The label is the sign of a unit's sum; against a model that reads whole samples, it must be learned."""
    torch.manual_seed(0)
    given = config(unit="thirds")
    task = given.build(hierarchy(2, THIRDS[:1]), rows, CLASSES)
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for _ in range(80):
        batch = _signs(rows, given, 8)
        task.train()(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    right, count = task.eval()(_signs(rows, given, 64)).stats["accuracy"]
    assert right / count > 0.85


def _signs(rows: Tokenizer, given: TaggingConfig, count: int) -> Batch:
    values = [torch.randn(length, 4) for length in torch.randint(1, 14, (count,)).tolist()]
    labels = [["noun" if part.sum() > 0 else "verb" for part in value.split(3)] for value in values]
    return labelled(rows, values, given, labels)


def test_the_task_is_that_of_its_configuration(hierarchy: Make, rows: Tokenizer) -> None:
    task = config(monitor="macro_f1").build(hierarchy(1), rows, CLASSES)
    assert isinstance(task, Tagging)
    assert (task.monitor, task.monitor_mode) == ("macro_f1", "max")
