"""How samples are split into batches and ranks changes neither gradient, nor metrics, nor what a model counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.per_step import training_step
from hrt_mm.core.tokens import Tokens
from hrt_mm.tasks import Masked, Task
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.meters import Meters, weight_of
from tests.processes import on_two_ranks
from tests.tasks.every import CASES

SPLITS = [[[0, 1, 2], [3, 4, 5, 6, 7]], [[0, 1], [3], [2, 4, 5], [6, 7]]]
ADDITIVE = [name for name in CASES if name != "contrastive"]
SHARED = ["segmentation", "ctc with silence and spellings", "balanced classification", "fused, each alone", "tagging"]


def _thirds(tokens: Tokens) -> Tensor:
    return (tokens.spans.positions % 3 == 0).cpu()


def step(name: str, task: Task, batches: Sequence[Sequence[int]], ranks: ProcessGroup) -> Meters:
    """One training step without its update, as the trainer takes it."""
    case, meters, weights = CASES[name], Meters(), []
    if isinstance(task, Masked):
        # What is hidden is drawn at random; here it is the same for a sample in any batch.
        task.hidden = _thirds  # type: ignore[method-assign]
    task.zero_grad()
    packed = [case.batch(positions) for positions in batches]
    counts = [task.counts(batch) for batch in packed]
    totals = {key: ranks.sum(torch.stack([item[key].double() for item in counts]).sum()) for key in counts[0]}
    model = ranks.wrap(task)
    with training_step(task), task.sharing(totals):
        for number, batch in enumerate(packed):
            with ranks.no_sync(model, last=number + 1 == len(packed)):
                output = model(batch)
                weight = weight_of(output, batch)
                (output.loss * weight.to(output.loss.dtype)).backward()
            weights.append(weight)
            meters.add(output, batch)
    scale = ranks.world_size / ranks.sum(torch.stack(weights).sum())
    for parameter in task.parameters():
        assert parameter.grad is not None
        parameter.grad *= scale.to(parameter.dtype)
    return meters


def state(task: Task) -> dict[str, list[Any]]:
    grads = {name: parameter.grad.tolist() for name, parameter in task.named_parameters() if parameter.grad is not None}
    return grads | {name: buffer.tolist() for name, buffer in task.named_buffers()}


def assert_like(actual: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        own, other = torch.tensor(actual[name]).double(), torch.tensor(value).double()
        torch.testing.assert_close(own, other, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("name", ADDITIVE)
def test_batches_of_a_step_add_up_to_one(name: str, split: list[list[int]]) -> None:
    alone = ProcessGroup(torch.device("cpu"))
    whole, parts = (CASES[name].build().train() for _ in range(2))
    for _ in range(2):
        expected = step(name, whole, [[index for part in split for index in part]], alone)
        result = step(name, parts, split, alone)
        assert_like(state(parts), state(whole))
        for key, (value, count) in expected.sums().items():
            assert list(result.sums()[key]) == pytest.approx([value, count], rel=1e-4, abs=1e-5), key


def _states_on_rank(ranks: ProcessGroup) -> dict[str, dict[str, list[Any]]]:
    result = {}
    for name in SHARED:
        task = CASES[name].build().train()
        for _ in range(2):
            step(name, task, [SPLITS[0][ranks.rank], SPLITS[1][2 + ranks.rank]], ranks)
        result[name] = state(task)
    return result


def test_two_ranks_are_one() -> None:
    answers = on_two_ranks(_states_on_rank)
    order = [index for part in (*SPLITS[0], *SPLITS[1][2:]) for index in part]
    for name in SHARED:
        task = CASES[name].build().train()
        for _ in range(2):
            step(name, task, [order], ProcessGroup(torch.device("cpu")))
        for answer in answers:
            assert_like(answer[name], state(task))
