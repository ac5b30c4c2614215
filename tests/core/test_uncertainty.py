"""Groups by uncertainty: where they start, that they look at nothing later, and that they learn in any division."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig, LearnedGroups
from hrt_mm.core.per_step import training_step
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.core.uncertainty import UncertaintyRouter
from tests.core.causal.test_engine import largest_difference

DIM = 16
GROUP = {"type": "learned", "signal": "uncertainty", "target": 4, "max": 12}


def router(**options: Any) -> UncertaintyRouter:
    return UncertaintyRouter(DIM, LearnedGroups.model_validate(GROUP | options))


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, the cross-entropy after each, and the starts: a quarter of the tokens announces a hard next one."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(count, DIM, generator=generator)
    announces_T = x_TD[:, 3] > 0.674
    nats_T = 1 + 3 * announces_T + 0.5 * torch.randn(count, generator=generator)
    starts_T = announces_T.roll(1)
    starts_T[0] = True
    return x_TD, nats_T, starts_T


def f1(one: UncertaintyRouter) -> float:
    x_TD, _, truth_T = planted(800, 99)
    training = one.training
    starts_T = one.eval()(x_TD, Spans.from_lengths([800])).starts_T
    one.train(training)
    return float(2 * (starts_T & truth_T).sum() / (starts_T.sum() + truth_T.sum()))


def taught(steps: int, batches: int = 1, one: UncertaintyRouter | None = None, first: int = 0) -> UncertaintyRouter:
    one = one or router()
    for seed in range(first, first + steps):
        x_TD, nats_T, _ = planted(240, seed)
        with training_step(one):
            size = 240 // batches
            for x, nats in zip(x_TD.split(size), nats_T.split(size), strict=True):
                samples = Spans.from_lengths([size])
                one.learn(one(x, samples), nats, samples)
    return one


def test_groups_start_where_the_next_token_is_hard_within_ten_steps() -> None:
    assert f1(router()) < 0.5
    one = taught(10)
    assert f1(one) > 0.8
    taught(30, one=one, first=10)
    size = 4000 / float(one.eval()(planted(4000, 7)[0], Spans.from_lengths([4000])).starts_T.sum())
    assert size == pytest.approx(4, rel=0.1)


def test_scores_are_those_of_a_regression() -> None:
    """The sums of several steps weigh as much as one least-squares problem over their tokens."""
    one = taught(3)
    rows = [planted(240, seed) for seed in range(3)]
    # The token after the last one is unknown.
    weight = torch.cat([torch.full((239,), 0.8 ** (2 - step)) for step in range(3)]).double()
    x = torch.cat([row[0][:-1] for row in rows]).double()
    x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
    y = torch.cat([row[1][:-1] for row in rows]).double()
    share = weight / weight.sum()
    mean_D, mean_y = share @ x, share @ y
    centred = x - mean_D
    covariance = centred.T @ (share[:, None] * centred)
    solved = torch.linalg.solve(covariance + 1e-3 * torch.eye(DIM), centred.T @ (share * (y - mean_y)))
    spread = (solved @ covariance @ solved).sqrt()
    torch.testing.assert_close(one.next_weight_D.double(), solved / spread, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.next_bias.double(), -(solved @ mean_D) / spread, rtol=1e-3, atol=1e-4)


def test_a_step_may_be_divided_and_training_resumed() -> None:
    whole = taught(6)
    for name, value in whole.state_dict().items():
        # A divided step has as many last tokens as batches, whose next tokens are unknown.
        torch.testing.assert_close(taught(3, one=copy(taught(3)), first=3).state_dict()[name], value, rtol=0, atol=0)
    halves = taught(1, batches=2)
    assert float(halves.sums_EE[-2, -2]) == 238


def copy(one: UncertaintyRouter) -> UncertaintyRouter:
    other = router()
    other.load_state_dict(one.state_dict())
    return other


def test_nothing_to_learn_from_changes_nothing() -> None:
    one = taught(3)
    before = {name: value.clone() for name, value in one.state_dict().items() if name.startswith("next_w")}
    samples = Spans.from_lengths([1])
    with training_step(one):
        one.learn(one(torch.randn(1, DIM), samples), torch.zeros(1), samples)
    with training_step(one):
        pass
    # Not a number, as of a model that diverged.
    samples = Spans.from_lengths([9])
    with training_step(one):
        one.learn(one(torch.randn(9, DIM), samples), torch.full((9,), float("nan")), samples)
    for name, value in before.items():
        assert torch.equal(one.state_dict()[name], value)


def hierarchy(pool: str = "mean") -> Hierarchy:
    torch.manual_seed(0)
    levels = [
        {"name": "a", "dim": DIM, "heads": 2, "depth": 1, "window": 4, "window_type": "sliding", "group": GROUP},
        {"name": "b", "dim": 24, "heads": 2, "depth": 1},
    ]
    levels[0]["pool"] = pool
    made = Hierarchy(HierarchyConfig.model_validate({"levels": levels, "top_down": True, "causal": True}))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for seed in range(4):
        x_TD, nats_T, _ = planted(60, seed)
        with training_step(made):
            made.learn_uncertainty(made(Tokens.pack([x_TD[:25], x_TD[25:]])), nats_T)
    return made.double().eval()


@pytest.mark.parametrize("pool", ["mean", "select"])
def test_no_output_depends_on_a_later_token(pool: str) -> None:
    model, x = hierarchy(pool), torch.randn(40, DIM, dtype=torch.float64)
    whole = model(Tokens.pack([x]))[0].x
    for at in range(1, 40, 3):
        changed = x.clone()
        changed[at:] = torch.randn(40 - at, DIM, dtype=torch.float64)
        torch.testing.assert_close(model(Tokens.pack([changed]))[0].x[:at], whole[:at], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", ["mean", "select"])
def test_steps_equal_the_forward_pass(pool: str) -> None:
    tokens = Tokens.pack([torch.randn(length, DIM, dtype=torch.float64) for length in (31, 1, 0, 18)])
    for most in (1, 5):
        assert largest_difference(hierarchy(pool), tokens, most, seed=0) < 1e-9


def test_packed_samples_are_as_one_by_one() -> None:
    model = hierarchy()
    samples = [torch.randn(length, DIM, dtype=torch.float64) for length in (31, 1, 18)]
    packed = model(Tokens.pack(samples))[0].split()
    for sample, x in zip(samples, packed, strict=True):
        torch.testing.assert_close(model(Tokens.pack([sample]))[0].x, x, rtol=0, atol=1e-12)


def test_boundaries_have_no_gradient() -> None:
    model = hierarchy().train()
    x = torch.randn(30, DIM, dtype=torch.float64, requires_grad=True)
    pyramid = model(Tokens.pack([x]))
    assert not pyramid.losses
    assert not pyramid.routings["a"].prob_T.requires_grad
    assert not [name for name, _ in model.named_parameters() if "router" in name]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"causal": False}, "group.signal of level 'a' is uncertainty"),
        ({"group": {"weight": 0.1}}, "drop weight"),
        ({"group": {"smooth": True}}, "drop smooth"),
        ({"group": {"supervise": "words"}}, "drop supervise"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(levels: dict[str, Any], message: str) -> None:
    group = GROUP | levels.get("group", {})
    config = {
        "levels": [{"name": "a", "dim": 8, "heads": 2, "group": group}, {"name": "b", "dim": 8, "heads": 2}],
        "causal": levels.get("causal", True),
        "top_down": True,
    }
    with pytest.raises(ValueError, match=message):
        HierarchyConfig.model_validate(config)
