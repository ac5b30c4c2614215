from __future__ import annotations

import pytest
import torch
from torch import nn

from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import LearnedGroups
from hrt_mm.core.routing import DifferenceRouter
from hrt_mm.train.weights import EMA, load_weights, named_weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def test_tied_weights_have_one_name_and_come_back() -> None:
    module, other = Tied(), Tied()
    assert set(named_weights(module)) == {"words.weight", "count"}
    load_weights(other, named_weights(module), "test")
    assert torch.equal(other.head.weight, module.words.weight)


def test_weights_of_another_model_are_refused_by_name_and_shape() -> None:
    with pytest.raises(
        UserError, match=r"x is not of this model: bias is missing; y is unknown; weight has shape \(2, 3\)"
    ):
        load_weights(nn.Linear(4, 2), {"weight": torch.zeros(2, 3), "y": torch.zeros(1)}, "x")


def test_ema_follows_its_formula_and_copies_integers() -> None:
    module = Tied()
    ema = EMA(module, 0.5)
    expected = module.words.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            module.words.weight += 1
            module.get_buffer("count").add_(1)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.words.weight.detach()
    torch.testing.assert_close(ema.weights["words.weight"], expected)
    assert ema.weights["count"] == 12


def test_ema_is_swapped_in_and_out() -> None:
    module = nn.Linear(2, 2)
    initial = module.weight.detach().clone()
    ema = EMA(module, 0.9)
    ema.weights["weight"].zero_()
    with ema.swapped_into(module):
        assert not module.weight.any()
    assert torch.equal(module.weight, initial)


def test_buffers_that_were_added_are_zero_in_checkpoints_from_before() -> None:
    group = LearnedGroups(type="learned", target=4, max=8)
    model = nn.ModuleDict({"router": DifferenceRouter(4, group)})
    former = {name: value + 1 for name, value in named_weights(model).items() if name.endswith("weight")}
    for value in named_weights(model).values():
        value.fill_(7)
    load_weights(model, former, "the checkpoint")
    for name, value in named_weights(model).items():
        assert torch.equal(value, former.get(name, torch.zeros_like(value)))
    with pytest.raises(UserError, match=r"router.here.weight is missing"):
        load_weights(model, {"router.before.weight": former["router.before.weight"]}, "the checkpoint")
