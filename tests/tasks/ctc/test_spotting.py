from __future__ import annotations

import math
from itertools import groupby, product

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import UserError
from hrt_mm.tasks.ctc import KeywordMatch, spot


def said(text: str, sharp: float = 6.0) -> Tensor:
    rows = torch.eye(4)[["abc-".index(sign) for sign in text]]
    return (sharp * rows).log_softmax(-1)


def places(matches: list[KeywordMatch]) -> list[tuple[int, int]]:
    return [(spotted.first, spotted.last) for spotted in matches]


def test_a_symbol_is_found_wherever_it_is_said() -> None:
    result = spot(said("--aab-a-c"), [0])
    assert places(result) == [(2, 3), (6, 6)]
    assert all(spotted.score == pytest.approx(1) for spotted in result)


def test_symbols_are_found_in_their_order() -> None:
    assert places(spot(said("ab--ba-a--b-abc"), [0, 1])) == [(0, 1), (7, 10), (12, 13)]
    assert places(spot(said("-c-abca"), [0, 1, 2])) == [(3, 5)]


def test_two_alike_need_a_blank_between() -> None:
    assert spot(said("aaa"), [0, 0]) == []
    assert places(spot(said("a-a"), [0, 0])) == [(0, 2)]


def test_doubt_lowers_the_score() -> None:
    log_probs = torch.tensor([[0.3, 0.1, 0.6], [0.1, 0.8, 0.1]]).log()
    (result,) = spot(log_probs, [0], 0.2)
    assert result.score == pytest.approx(0.5)
    (both,) = spot(log_probs, [0, 1], 0.2)
    assert both.score == pytest.approx(math.sqrt(0.5))
    assert spot(log_probs, [0]) == []


@pytest.mark.parametrize("keyword", [[0], [0, 1], [1, 1], [0, 1, 0]])
def test_the_best_is_that_of_all_ways(keyword: list[int]) -> None:
    """Over every stretch of steps and every way through it that says the keyword and nothing else."""
    log_probs = (2 * torch.randn(6, 3)).log_softmax(-1)
    ratios = log_probs - log_probs.max(1, keepdim=True).values
    best = -math.inf
    for first in range(6):
        for length in range(1, 7 - first):
            for path in product(range(3), repeat=length):
                if path[0] != 2 and path[-1] != 2 and [k for k, _ in groupby(path) if k != 2] == keyword:
                    best = max(best, sum(float(ratios[first + n, k]) for n, k in enumerate(path)))
    result = spot(log_probs, keyword, 1e-9)
    assert max(spotted.score for spotted in result) == pytest.approx(math.exp(best / len(keyword)), rel=1e-4)


def test_nothing_is_found_in_no_steps() -> None:
    assert spot(torch.zeros(0, 3), [0]) == []


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="at least one symbol"):
        spot(torch.zeros(2, 3), [])
    with pytest.raises(UserError, match="threshold"):
        spot(torch.zeros(2, 3), [0], 0)
