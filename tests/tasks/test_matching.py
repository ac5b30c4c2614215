from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, MatchingConfig

Make = Callable[..., HierarchyConfig]
CLASSES = ("different", "same")


def config(**options: Any) -> MatchingConfig:
    return MatchingConfig.model_validate({"type": "matching", **options})


def pairs(task: MatchingConfig, tokenizer: Tokenizer, values: list[tuple[Tensor, Tensor]], labels: list[Any]) -> Batch:
    samples = [
        Sample(value, label, f"p{index}") for index, (value, label) in enumerate(zip(values, labels, strict=True))
    ]
    tokens = tokenizer(task.values(samples))
    return Batch.of(tokens, task.targets(samples, tokens, CLASSES), tuple(sample.name for sample in samples))


def test_it_is_registered() -> None:
    assert TASKS["matching"] is MatchingConfig


def test_a_batch_counts_pairs_and_names_either_side(rows: Tokenizer) -> None:
    batch = pairs(
        config(), rows, [(torch.randn(3, 4), torch.randn(5, 4)), (torch.randn(1, 4), torch.randn(2, 4))], [0, 1]
    )
    assert len(batch) == 2
    assert len(batch.tokens) == 4
    assert [batch.name("", sequence) for sequence in range(4)] == ["p0", "p0", "p1", "p1"]


def test_logits_are_of_both_vectors_their_product_and_their_difference(hierarchy: Make, rows: Tokenizer) -> None:
    given = config(hidden=16)
    task = given.build(hierarchy(), rows, CLASSES).eval()
    torch.nn.init.normal_(task.head.weight)
    values = [(torch.randn(3, 4), torch.randn(5, 4)), (torch.randn(1, 4), torch.randn(2, 4))]
    batch = pairs(given, rows, values, ["same", "different"])
    one, two = (torch.stack([task.encoder(rows([pair[side]])).pooled("c")[0] for pair in values]) for side in (0, 1))
    hidden = F.relu(task.compare(torch.cat([one, two, one * two, one - two], -1)))
    assert batch.target is not None
    assert batch.target.tolist() == [1, 0]
    assert torch.allclose(task(batch).loss, F.cross_entropy(task.head(hidden), batch.target), atol=1e-6)


def test_neither_side_sees_the_other(hierarchy: Make, rows: Tokenizer) -> None:
    task = config().build(hierarchy(cross_scale={"up": True, "down": True}), rows, CLASSES)
    left, right = torch.randn(6, 4, requires_grad=True), torch.randn(7, 4)
    pooled = task.encoder(rows([left, right])).pooled()
    assert not torch.autograd.grad(pooled[1].sum(), left)[0].any()


@pytest.mark.parametrize("value", [torch.zeros(2, 4), (torch.zeros(2, 4),)])
def test_what_is_no_pair_is_a_bad_sample(value: Any) -> None:
    with pytest.raises(BadSample, match="one: task matching needs samples of two values"):
        config().values([Sample(value, 0, "one")])


def test_a_nan_is_named_by_its_pair(hierarchy: Make, rows: Tokenizer) -> None:
    given = config()
    task = given.build(hierarchy(), rows, CLASSES)
    bad = torch.full((2, 4), torch.nan)
    batch = pairs(given, rows, [(torch.randn(3, 4), torch.randn(5, 4)), (torch.randn(3, 4), bad)], [0, 1])
    assert task.nonfinite_source(batch) == "the input (p1)"


def test_pairs_of_one_kind_are_told_from_others(hierarchy: Make, rows: Tokenizer) -> None:
    """Pairs match where both lie on the same side of 0: no side alone says anything, chance is a half."""
    torch.manual_seed(0)
    given = config(hidden=16)
    task = given.build(hierarchy(2), rows, CLASSES)
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for _ in range(150):
        task.train()(_sides(rows, given, 16)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    right, count = task.eval()(_sides(rows, given, 128)).stats["accuracy"]
    assert right / count > 0.9


def _sides(rows: Tokenizer, given: MatchingConfig, count: int) -> Batch:
    signs = torch.randint(0, 2, (count, 2)) * 2 - 1
    values = [tuple(torch.randn(5, 4) * 0.5 + sign for sign in pair) for pair in signs.tolist()]
    labels = ["same" if one == two else "different" for one, two in signs.tolist()]
    return pairs(given, rows, values, labels)
