from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torchaudio.functional import forced_align

from hrt_mm.core.errors import UserError
from hrt_mm.tasks.ctc import collapsed, forced_alignment


def steps(count: int, symbols: int) -> Tensor:
    return (2 * torch.randn(count, symbols + 1)).log_softmax(-1)


@pytest.mark.parametrize("symbols", [[0], [0, 1], [1, 1], [0, 1, 0], [1, 1, 1]])
def test_it_is_the_best_of_all_paths(symbols: list[int]) -> None:
    log_probs = steps(6, 2)
    paths = [path for path in product(range(3), repeat=6) if collapsed(path, 2) == symbols]
    best = max(paths, key=lambda path: sum(float(log_probs[n, k]) for n, k in enumerate(path)))
    result = forced_alignment(log_probs, symbols)
    said = [2] * 6
    for placed in result:
        said[placed.first : placed.last + 1] = [placed.symbol] * (placed.last - placed.first + 1)
        own = log_probs[placed.first : placed.last + 1, placed.symbol]
        assert placed.log_prob == pytest.approx(float(own.mean()), rel=1e-5)
    assert tuple(said) == best


@pytest.mark.parametrize("symbols", [[4, 4, 2, 0, 3, 3, 1], [1], list(range(5)) * 5])
def test_it_is_torchaudios(symbols: list[int]) -> None:
    log_probs = steps(60, 5)
    path, _ = forced_align(log_probs[None], torch.tensor([symbols]), blank=5)
    said = torch.full((60,), 5)
    for placed in forced_alignment(log_probs, symbols):
        said[placed.first : placed.last + 1] = placed.symbol
    assert torch.equal(said, path[0].long())


def test_no_symbols_lie_nowhere() -> None:
    assert forced_alignment(steps(3, 2), []) == []
    assert forced_alignment(torch.zeros(0, 3), []) == []


def test_symbols_that_do_not_fit_are_told() -> None:
    forced_alignment(steps(3, 2), [0, 0])
    with pytest.raises(UserError, match=r"s: 3 symbols do not fit into 4 frames"):
        forced_alignment(steps(4, 2), [0, 0, 0], "s")


def test_what_is_no_number_is_told() -> None:
    with pytest.raises(UserError, match="not numbers"):
        forced_alignment(torch.full((4, 3), math.nan), [0])


def test_hundreds_of_symbols() -> None:
    symbols = [index % 3 for index in range(200)]
    scores = torch.full((400, 4), -9.0)
    scores[torch.arange(400), torch.tensor(symbols).repeat_interleave(2)] = 0.0
    placed = forced_alignment(scores, symbols)
    assert [(one.first, one.last) for one in placed] == [(2 * index, 2 * index + 1) for index in range(200)]
