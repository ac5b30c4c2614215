"""Ranks look for unused parameters only where a batch may leave some; elsewhere every batch reaches all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hrt_mm.core.tokens import Tokens
from hrt_mm.train.distributed import ProcessGroup
from tests.processes import on_two_ranks
from tests.tasks.conftest import RowEmbedding, Rows, hierarchy
from tests.tasks.every import CASES

JOINT = ("fused", "fused, each alone", "contrastive")
ONE = [name for name in CASES if name not in JOINT]


class Partly(RowEmbedding):
    """An embedding with a part that it does not use, and says so."""

    leaves_unused = True

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.more = nn.Linear(4, dim)


class PartlyRows(Rows):
    def embedding(self, dim: int) -> nn.Module:
        return Partly(dim)


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("positions", [[3], [0], [1, 3], [2, 5, 7]], ids=str)
def test_tasks_of_one_encoder_leave_none(name: str, positions: list[int]) -> None:
    task = CASES[name].build().train()
    assert not task.leaves_unused
    task(CASES[name].batch(positions)).loss.backward()
    assert [item for item, parameter in task.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", JOINT)
def test_tasks_of_several_towers_may(name: str) -> None:
    assert CASES[name].build().leaves_unused


def test_a_module_may_say_it() -> None:
    case = CASES["tagging"]
    assert case.config.build_towers({"": hierarchy(2, top_down=True)}, {"": PartlyRows()}, ("x", "y")).leaves_unused


def test_samples_without_tokens_leave_none() -> None:
    model = hierarchy(2, top_down=True, cross_scale={"down": True})
    task = CASES["tagging"].config.build_towers({"": model}, {"": Rows()}, ("x", "y", "z")).train()
    tokens = Rows()([torch.zeros(0, 4), torch.zeros(0, 4)])
    pyramid = task.get_submodule("encoder")(tokens)
    assert isinstance(tokens, Tokens)
    pyramid[0].x.sum().backward()
    encoder = task.get_submodule("encoder")
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def _losses_on_rank(ranks: ProcessGroup) -> dict[str, tuple[bool, list[float]]]:
    result: dict[str, tuple[bool, list[float]]] = {}
    for name in ("classification", "language", "ctc", "contrastive"):
        for look in (None, True):
            task = CASES[name].build().train()
            if look:
                task.leaves_unused = True
            model = ranks.wrap(task)
            assert isinstance(model, DistributedDataParallel)
            optimizer = torch.optim.SGD(task.parameters(), 0.1)
            losses = []
            for _ in range(3):
                optimizer.zero_grad()
                output = model(CASES[name].batch([0, 2, 4] if ranks.rank else [1, 3, 5]))
                output.loss.backward()
                optimizer.step()
                losses.append(float(output.loss.detach()))
            result[f"{name} {look}"] = (model.find_unused_parameters, losses)
    return result


def test_two_ranks_train_the_same_without_looking() -> None:
    for answer in on_two_ranks(_losses_on_rank):
        for name in ("classification", "language", "ctc", "contrastive"):
            assert answer[f"{name} None"][0] == (name == "contrastive")
            assert answer[f"{name} True"][0]
            assert answer[f"{name} None"][1] == answer[f"{name} True"][1]
