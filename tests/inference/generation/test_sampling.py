from __future__ import annotations

from typing import Any

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.inference.generation import Sampling

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 1.0], [0.0, 0.0, 3.0, 0.0, 0.0]])


def kept(**options: Any) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in Sampling(**options).probabilities(LOGITS)]


def test_limits() -> None:
    assert kept() == [[0, 1, 2, 3, 4]] * 2
    assert kept(temperature=0.0) == [[0], [2]]
    assert kept(top_k=1) == [[0], [2]]
    assert kept(top_k=2)[0] == [0, 1], "of a tie the first ones"
    assert kept(top_k=99) == kept()
    p = LOGITS[0].double().softmax(-1)
    assert kept(top_p=float(p[0]) - 1e-6)[0] == [0]
    assert kept(top_p=float(p[0]) + 1e-6)[0] == [0, 1]
    assert kept(top_p=1.0) == kept()
    assert kept(min_p=float(p[1] / p[0]) - 1e-6)[0] == [0, 1, 4]
    assert kept(min_p=1.0)[0] == [0]
    assert kept(top_k=3, min_p=0.9)[0] == [0]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_top_k_keeps_as_many_as_it_says(count: int) -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0], [0.0] * 5, [3.0, -torch.inf, 3.0, 2.0, 2.0]])
    p = Sampling(top_k=count).probabilities(logits)
    assert (p > 0).sum(-1).tolist() == [count, count, count]
    assert p[0, 1] == pytest.approx(1 / count)
    assert p[1, :count].tolist() == pytest.approx([1 / count] * count)


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    for options in ({}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}):
        p = Sampling(temperature, **options).probabilities(1000 * LOGITS)
        assert torch.equal(p, Sampling(0.0).probabilities(LOGITS)), options


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 2}], ids=str)
def test_logits_that_are_not_finite_are_an_error(bad: float, options: dict[str, Any]) -> None:
    logits = LOGITS.clone()
    logits[1, 3] = bad
    with pytest.raises(UserError, match=f"logits of text 1 of the batch are not finite .*{bad}"):
        Sampling(**options).draw(logits, [torch.Generator()] * 2)
    with pytest.raises(UserError, match=r"logits of text 0 of the batch are not finite .*-inf"):
        Sampling(**options).probabilities(torch.full((1, 3), -torch.inf))


def test_probabilities_are_those_of_the_softmax() -> None:
    expected = (LOGITS.double() / 0.7).softmax(-1)
    assert torch.allclose(Sampling(0.7).probabilities(LOGITS), expected)
    cut = Sampling(0.7, top_k=3).probabilities(LOGITS)
    assert torch.allclose(cut.sum(-1), torch.ones(2).double())
    assert torch.allclose(cut[0, 0] / cut[0, 1], expected[0, 0] / expected[0, 1])


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(top_p=0.9)
    logits = LOGITS[:1].expand(20_000, -1)
    counts = sampling.draw(logits, [generator] * 20_000).bincount(minlength=5) / 20_000
    assert (counts - sampling.probabilities(LOGITS)[0]).abs().max() < 0.02


def test_a_sample_draws_the_same_alone_and_in_a_batch() -> None:
    def drawn(rows: list[int]) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return [Sampling().draw(LOGITS[rows], generators).tolist() for _ in range(8)]

    both, first, second = drawn([0, 1]), drawn([0]), drawn([1])
    assert both == [a + b for a, b in zip(first, second, strict=True)]


def test_a_draw_never_falls_on_a_token_without_a_chance() -> None:
    logits = torch.full((1, 7), -torch.inf)
    logits[0, 2:4] = 0.0
    generator = torch.Generator().manual_seed(0)
    assert {int(Sampling().draw(logits, [generator])) for _ in range(200)} == {2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be 0 or more"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_k": 0}, "top_k 0 must be 1 or more"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"min_p": -1.0}, "min_p -1.0"),
        ({"temperature": 0.0, "top_k": 3}, "top_k has no effect at temperature 0"),
    ],
)
def test_bad_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**options)
