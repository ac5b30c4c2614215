from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, Classification, ClassificationConfig
from hrt_mm.tasks.labels import macro_f1

Make = Callable[..., HierarchyConfig]
CLASSES = ("ant", "bee", "cow")


def config(**options: Any) -> ClassificationConfig:
    return ClassificationConfig.model_validate({"type": "classification", **options})


def batch(tokenizer: Tokenizer, samples: list[Tensor]) -> Batch:
    return Batch.of(tokenizer(samples), torch.arange(len(samples)) % 3)


def test_it_is_registered() -> None:
    assert TASKS["classification"] is ClassificationConfig


def test_loss_and_accuracy_are_those_of_the_logits(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config().build(hierarchy(), rows, CLASSES).eval()
    result = batch(rows, samples)
    assert result.target is not None
    logits = task.head(task.encoder(result.tokens).pooled("c"))
    output = task(result)
    assert torch.allclose(output.loss, F.cross_entropy(logits, result.target))
    assert output.predictions is not None
    assert torch.equal(output.predictions, logits.argmax(-1))
    right, count = output.stats["accuracy"]
    assert (int(right), int(count)) == (int((logits.argmax(-1) == result.target).sum()), 4)
    assert "top5" not in output.stats


def test_probabilities_are_means_over_views(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config().build(hierarchy(), rows, CLASSES).eval()
    with torch.no_grad():
        task.head.weight.mul_(50)
    pairs = [Sample(tuple(samples[:2]), "bee", "one"), Sample(tuple(samples[2:]), "ant", "two")]
    result = config().collator({}, {"": rows}, CLASSES)(pairs)
    assert len(result) == 2 and [result.name("", sequence) for sequence in range(4)] == ["one", "one", "two", "two"]
    shares = task.head(task.encoder(rows(samples)).pooled("c")).softmax(-1)
    mean = shares.unflatten(0, (2, 2)).mean(1)
    output = task(result)
    assert torch.allclose(output.loss, F.nll_loss(mean.log(), torch.tensor([1, 0])), atol=1e-5)
    assert output.predictions is not None and torch.equal(output.predictions, mean.argmax(-1))
    assert int(output.stats["accuracy"][1]) == 2
    assert (shares[0] - shares[1]).abs().max() > 0.01


def test_samples_of_a_batch_have_as_many_views(rows: Tokenizer, samples: list[Tensor]) -> None:
    uneven = [Sample(tuple(samples[:2]), "bee", "one"), Sample(samples[2], "ant", "two")]
    with pytest.raises(BadSample, match="two: has 1 views and one 2; give as many"):
        config().collator({}, {"": rows}, CLASSES)(uneven)


def test_several_levels_lie_end_to_end(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config(level=("a", "c")).build(hierarchy(), rows, CLASSES)
    assert task.head.in_features == 16
    pyramid = task.encoder(rows(samples))
    expected = task.head(torch.cat([pyramid.pooled("a"), pyramid.pooled("c")], -1))
    assert torch.allclose(task(batch(rows, samples)).loss, F.cross_entropy(expected, torch.tensor([0, 1, 2, 0])))


def test_smoothing_is_for_training_alone(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config(label_smoothing=0.3).build(hierarchy(), rows, CLASSES)
    result = batch(rows, samples)
    assert result.target is not None
    logits = task.head(task.encoder(result.tokens).pooled())
    assert torch.allclose(task.train()(result).loss, F.cross_entropy(logits, result.target, label_smoothing=0.3))
    assert torch.allclose(task.eval()(result).loss, F.cross_entropy(logits, result.target))


def test_balance_raises_logits_by_the_shares_so_far(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config(balance=0.7).build(hierarchy(), rows, CLASSES)
    result = batch(rows, samples)
    assert result.target is not None
    logits = task.head(task.encoder(result.tokens).pooled())
    for seen in ([1, 1, 1], [3, 2, 2]):
        shares = torch.tensor(seen) / sum(seen)
        expected = F.cross_entropy(logits + 0.7 * shares.log(), result.target)
        assert torch.allclose(task.train()(result).loss, expected)
    assert torch.allclose(task.eval()(result).loss, F.cross_entropy(logits, result.target))
    assert task.state_dict()["scores.seen_K"].tolist() == [5, 3, 3]


def test_balance_finds_rare_classes(hierarchy: Make, rows: Tokenizer) -> None:
    """One in ten is rare and only a little different: without balance it is never predicted."""
    macro = {}
    for balance in (0.0, 1.0):
        torch.manual_seed(0)
        task = config(balance=balance).build(hierarchy(), rows, ("common", "rare"))
        optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
        for _ in range(40):
            target = (torch.rand(64) < 0.1).long()
            values = [torch.randn(3, 4) + 0.4 * float(label) for label in target]
            optimizer.zero_grad()
            task(Batch.of(rows(values), target)).loss.backward()
            optimizer.step()
        target = torch.arange(300) % 10 // 9
        values = [torch.randn(3, 4) + 0.4 * float(label) for label in target]
        macro[balance] = macro_f1(task.eval()(Batch.of(rows(values), target)).class_counts["macro_f1"])
    assert macro[1.0] > macro[0.0] + 0.03


def test_dropout_is_for_training_alone(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config(dropout=0.5).build(hierarchy(), rows, CLASSES)
    result = batch(rows, samples)
    task.train()
    assert not torch.equal(task(result).loss, task(result).loss)
    task.eval()
    assert torch.equal(task(result).loss, task(result).loss)


def test_top5_counts_above_ten_classes(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config().build(hierarchy(), rows, tuple(map(str, range(12)))).eval()
    nn.init.zeros_(task.head.weight)
    with torch.no_grad():
        task.head.bias.copy_(torch.arange(12.0))
    output = task(Batch.of(rows(samples), torch.tensor([11, 7, 6, 0])))
    assert [int(value) for value in output.stats["top5"]] == [2, 4]
    assert [int(value) for value in output.stats["accuracy"]] == [1, 4]


def test_auxiliary_losses_are_added(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config().build(hierarchy(reconstruction=0.5, alignment=0.25), rows, CLASSES)
    output = task(batch(rows, samples))
    assert set(output.parts) == {"cross_entropy"} | {
        f"{kind}/{level}" for kind in ("reconstruction", "alignment") for level in "ab"
    }
    assert torch.allclose(output.loss, torch.stack(list(output.parts.values())).sum())
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_half_precision(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config(label_smoothing=0.1).build(hierarchy(), rows, CLASSES)
    result = batch(rows, samples)
    with torch.autocast("cpu", torch.bfloat16):
        half = task(result)
    assert half.loss.dtype == torch.float32
    half.loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert abs(float(half.loss.detach()) - float(task(result).loss.detach())) < 0.05


def test_it_learns(hierarchy: Make, rows: Tokenizer) -> None:
    """Which of three rows occurs: nothing that the mean of the embedded input does not show, but through all levels."""
    task = config().build(hierarchy(), rows, CLASSES)
    keys = torch.randn(3, 4)
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
    for _ in range(60):
        target = torch.randint(0, 3, (32,))
        values = [torch.randn(9, 4) * 0.3 for _ in target]
        for value, label in zip(values, target.tolist(), strict=True):
            value[int(torch.randint(0, 9, ()))] += 2 * keys[label]
        output = task(Batch.of(rows(values), target))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    right, count = output.stats["accuracy"]
    assert int(right) / int(count) > 0.9


def test_targets_are_places_of_names(rows: Tokenizer, samples: list[Tensor]) -> None:
    labels: list[object] = ["cow", 1, "ant", 2]
    result = [Sample(value, label, "row") for value, label in zip(samples, labels, strict=True)]
    assert config().targets(result, rows(samples), CLASSES).tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize("label", ["dog", 3, -1, None, True, 1.0, ["ant"]])
def test_unknown_labels_are_bad_samples(rows: Tokenizer, samples: list[Tensor], label: object) -> None:
    result = [Sample(samples[0], "ant", "row 1"), Sample(samples[1], label, "row 2")]
    with pytest.raises(BadSample, match=r"^row 2: label .* is not one of the training set's: ant, bee, cow$"):
        config().targets(result, rows(samples[:2]), CLASSES)


def test_data_without_classes_is_named(hierarchy: Make, rows: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="needs labels, and the training data has no classes"):
        config().build(hierarchy(), rows, None)
    with pytest.raises(ConfigError, match=r"needs 2 classes or more, the training data has \['ant'\]"):
        config().build(hierarchy(), rows, ("ant",))


@pytest.mark.parametrize("options", [{"label_smoothing": 1.0}, {"dropout": -0.1}, {"level": ()}, {"smoothing": 0.1}])
def test_bad_options_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**options)


def test_the_start_is_near_even_odds(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = Classification(config(), hierarchy(), rows, CLASSES)
    assert float(task(batch(rows, samples)).loss.detach()) == pytest.approx(math.log(3), abs=0.15)
