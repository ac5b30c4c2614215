"""Two ranks have the gradient that one has, to rounding, however unevenly the samples and the modalities fall."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.data.sample import Sample
from hrt_mm.tasks import Contrastive, ContrastiveConfig
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.meters import weight_of
from tests.processes import on_two_ranks
from tests.tasks.conftest import Ids, Rows, hierarchy, unzero


def _samples() -> list[Sample]:
    torch.manual_seed(3)
    values: list[dict[str, Any]] = [
        {"rows": torch.randn(2 + index % 3, 4), "ids": torch.tensor([index % 5, 3])} for index in range(9)
    ]
    values[0]["ids"] = values[2]["rows"] = None
    return [Sample(value, f"g{index % 5}", f"s{index}") for index, value in enumerate(values)]


def _gradient(options: dict[str, Any], share: list[Sample], ranks: ProcessGroup) -> dict[str, Tensor]:
    torch.manual_seed(0)
    config = ContrastiveConfig.model_validate({"type": "contrastive", "dim": 8, **options})
    towers = {"rows": Rows(), "ids": Ids()}
    task = config.build_towers({"rows": hierarchy(2), "ids": hierarchy(2)}, towers, None)
    assert isinstance(task, Contrastive)
    unzero(task)
    model = ranks.wrap(task)
    batch = config.collator({}, towers, None)(share)
    output = model(batch)
    weight = weight_of(output, batch)
    (output.loss * weight.to(output.loss.dtype)).backward()
    factor = ranks.world_size / ranks.sum(weight.clone())
    return {
        name: parameter.grad * factor.to(parameter.dtype)
        for name, parameter in task.named_parameters()
        if parameter.grad is not None
    }


def _gradient_on_rank(ranks: ProcessGroup, options: dict[str, Any], shares: list[list[int]]) -> dict[str, list[Any]]:
    chosen = [_samples()[index] for index in shares[ranks.rank]]
    result = _gradient(options, chosen, ranks)
    return {name: gradient.tolist() for name, gradient in result.items()}


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [[1, 3, 4, 5, 6, 7, 8], [0, 2]]),
        ({"loss": {"type": "sigmoid"}, "chunk": 2}, [[0, 1, 2, 3, 4, 5, 6, 7], [8]]),
        ({"also": [{"levels": {"rows": "a", "ids": "a"}, "align": "soft"}]}, [[0], [1, 2, 3, 4, 5, 6, 7, 8]]),
    ],
    ids=["infonce", "sigmoid-in-chunks", "soft-and-a-rank-without-ids"],
)
def test_two_ranks_have_the_gradient_of_one(options: dict[str, Any], shares: list[list[int]]) -> None:
    order = [*shares[0], *shares[1]]
    alone = _gradient(options, [_samples()[index] for index in order], ProcessGroup(torch.device("cpu")))
    for result in on_two_ranks(_gradient_on_rank, options, shares):
        assert result.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(torch.tensor(result[name]), gradient, rtol=1e-4, atol=1e-6)
