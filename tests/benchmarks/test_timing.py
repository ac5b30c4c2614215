"""Races and fitted exponents."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks.timing import Race, exponent, race

CPU = torch.device("cpu")


@pytest.mark.parametrize("power", [0.0, 1.0, 1.37, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power: float) -> None:
    sizes = [1024, 2048, 4096, 8192]
    assert exponent(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)


def test_the_exponent_is_the_slope_of_least_squares() -> None:
    # log2: sizes 0 1 2 3, seconds 0 1 1 3; the slope by hand is 9/10.
    assert exponent([1, 2, 4, 8], [1, 2, 2, 8]) == pytest.approx(0.9)


def test_contenders_run_in_turns_and_take_turns_at_going_first() -> None:
    order: list[str] = []
    result = race({name: partial(order.append, name) for name in "abc"}, CPU, budget=0, rounds=(4, 4))
    warm_up_that_counts = "abc"
    assert "".join(order) == warm_up_that_counts + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in result.seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_budget_sets_the_rounds_within_their_bounds() -> None:
    calls = {"a": lambda: None}
    assert len(race(calls, CPU, budget=0, rounds=(3, 9)).seconds["a"]) == 3
    assert len(race(calls, CPU, budget=60, rounds=(3, 9)).seconds["a"]) == 9


def test_a_warm_up_within_the_budget_does_not_count() -> None:
    calls: list[int] = []
    race({"a": lambda: calls.append(1)}, CPU, budget=60, rounds=(3, 5))
    assert len(calls) == 1 + 5


def test_a_ratio_compares_within_rounds() -> None:
    # The machine slows down tenfold from round to round; the ratio of neighbours stays 2.
    result = Race({"slow": [2, 20, 200], "fast": [1, 10, 100]}, {})
    assert result.ratio("slow", "fast") == 2
    assert result.median("slow") == 20
    assert result.quartiles("fast") == (5.5, 55)


def test_a_contender_without_memory_is_left_out_and_named() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("no")

    result = race({"big": fail, "small": lambda: None}, CPU, budget=0)
    assert result.notes == {"big": "out of memory"}
    assert result.median("big") is None
    assert result.ratio("big", "small") is None
    assert result.median("small") is not None
