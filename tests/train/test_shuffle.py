from __future__ import annotations

import numpy as np
import pytest
import torch

from hrt_mm.train.shuffle import Shuffle


@pytest.mark.parametrize("held", [0, 1 << 22], ids=["computed", "held"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 1000, 4097, 65537])
def test_every_number_once_and_the_same_again(length: int, held: int) -> None:
    order = Shuffle(length, 5, held)
    whole = order[:]
    assert sorted(whole) == list(range(length)) and whole == Shuffle(length, 5, held)[:]
    assert [order[index] for index in range(min(length, 50))] == whole[:50] and order[-1] == whole[-1]
    assert order[1:40:3] == whole[1:40:3] and order[length:] == []
    with pytest.raises(IndexError):
        order[length]
    if length > 15:
        assert whole != Shuffle(length, 6, held)[:] != list(range(length))


def test_a_short_order_is_what_torch_draws() -> None:
    expected = torch.randperm(1000, generator=torch.Generator().manual_seed(7)).tolist()
    assert Shuffle(1000, 7)[:] == expected


def test_computed_orders_look_random() -> None:
    length = 6000
    orders = np.array([Shuffle(length, seed, 0)[:] for seed in range(40)])
    steps = np.diff(orders, axis=1)
    assert abs(np.corrcoef(orders[:, :-1].ravel(), orders[:, 1:].ravel())[0, 1]) < 0.01, "neighbours"
    assert abs(np.corrcoef(orders[0], np.arange(length))[0, 1]) < 0.05, "place and number"
    assert abs(np.corrcoef(orders)[np.triu_indices(40, 1)]).max() < 0.07, "orders of different seeds"
    assert (np.abs(steps) == 1).mean() < 3 * 2 / length
    positions = orders[:, :100].ravel() * 10 // length
    assert np.bincount(positions).min() > 0.8 * positions.size / 10, "numbers that come early"
    assert (orders == np.arange(length)).sum() == pytest.approx(40, abs=25), "one place stays, on average"
