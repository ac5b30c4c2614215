"""The running mean of packed tokens, however a step is split into batches."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from hrt_mm.core.mean_removal import MeanRemoval
from hrt_mm.core.per_step import training_step


def test_the_first_step_sets_the_mean_and_later_ones_move_it() -> None:
    module = MeanRemoval(2)
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[7.0, 8.0]])
    assert torch.equal(module(first), first)
    assert module.mean_D.tolist() == [2.0, 3.0]
    module(second)
    torch.testing.assert_close(module.mean_D, torch.tensor([2.5, 3.5]))
    module.eval()
    torch.testing.assert_close(module(second), torch.tensor([[4.5, 4.5]]))
    torch.testing.assert_close(module.mean_D, torch.tensor([2.5, 3.5]))


def test_a_step_is_the_same_in_one_batch_and_in_several() -> None:
    rows = torch.randn(7, 3, dtype=torch.float64)
    whole, parts = MeanRemoval(3).double(), MeanRemoval(3).double()
    for _ in range(2):
        with training_step(whole):
            whole(rows)
        with training_step(parts):
            for part in rows.split([4, 0, 3]):
                parts(part)
    torch.testing.assert_close(parts.mean_D, whole.mean_D)
    assert int(whole.steps) == int(parts.steps) == 2


def test_a_step_without_tokens_changes_nothing() -> None:
    module = MeanRemoval(3)
    module(torch.empty(0, 3))
    assert int(module.steps) == 0 and not module.mean_D.any()
    module(torch.ones(1, 3))
    assert module.mean_D.tolist() == [1.0, 1.0, 1.0]


def test_recomputed_activations_are_not_counted_again() -> None:
    module = MeanRemoval(2)
    rows = torch.randn(5, 2, requires_grad=True)
    checkpoint(module, rows, use_reentrant=False).square().sum().backward()
    assert int(module.steps) == 1
    assert rows.grad is not None


def test_a_constant_source_is_gone_once_the_mean_has_followed() -> None:
    module = MeanRemoval(4)
    torch.manual_seed(0)
    varied = torch.randn(50, 4)
    for step in range(60):
        module(varied + min(step, 10))
    module.eval()
    torch.testing.assert_close(module(varied + 10).mean(0), torch.zeros(4), atol=0.05, rtol=0)
