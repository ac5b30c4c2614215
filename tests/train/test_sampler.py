from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.train.sampler import Position, Sampler, evaluation_plans, sample_sizes, shares
from tests.train.toy_training import ToyTokenizer, toy_config


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [Sampler(50, seed=seed, batch_size=5).order(epoch)[:] for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_an_epoch_holds_each_sample_once_but_for_what_fills_no_batch() -> None:
    batches = Sampler(11, seed=3, batch_size=4).batches(0)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len({index for batch in batches for index in batch}) == 8


def test_going_on_from_any_position_gives_what_would_have_come() -> None:
    plans = list(islice(Sampler(11, seed=3, batch_size=4).plans(Position()), 7))
    assert [plan.at for plan in plans[:3]] == [Position(0, 0), Position(0, 1), Position(1, 0)]
    for number, plan in enumerate(plans[:-1]):
        assert plan.following == plans[number + 1].at
        rest = list(islice(Sampler(11, seed=3, batch_size=4).plans(plan.following), 6 - number))
        assert rest == plans[number + 1 :]


def test_ranks_share_each_batch() -> None:
    whole = Sampler(20, seed=0, batch_size=7).batches(2)
    shares = [Sampler(20, seed=0, batch_size=7, rank=rank, world_size=2).batches(2) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == 4


@pytest.mark.parametrize("window", [None, 20])
def test_token_batches_are_the_same_on_any_number_of_ranks(window: int | None) -> None:
    sizes = [1 + index % 7 for index in range(60)]

    def by_rank(world_size: int) -> list[Sequence[Sequence[int]]]:
        return [
            Sampler(
                60, seed=1, batch_tokens=24, sizes=sizes, bucket_window=window, rank=rank, world_size=world_size
            ).batches(1)
            for rank in range(world_size)
        ]

    (whole,) = by_rank(1)
    assert len(whole) > 6
    for batch in whole:
        assert 24 - 7 < sum(sizes[index] for index in batch) <= 24
    assert len({index for batch in whole for index in batch}) == sum(map(len, whole))
    for world_size in (2, 3):
        for batch, *parts in zip(whole, *by_rank(world_size), strict=True):
            assert sorted(index for part in parts for index in part) == sorted(batch) and all(parts)
            tokens = [sum(sizes[index] for index in part) for part in parts]
            assert max(tokens) <= sum(tokens) / world_size + max(sizes[index] for index in batch)


def test_a_bucket_has_samples_of_similar_length() -> None:
    sizes = [1 + (index * 37) % 100 for index in range(1000)]

    def widest(window: int | None) -> float:
        batches = Sampler(1000, seed=2, batch_tokens=500, sizes=sizes, bucket_window=window).batches(0)
        assert {index for batch in batches for index in batch} <= set(range(1000))
        means = [sum(sizes[index] for index in batch) / len(batch) for batch in batches]
        # Batches of short samples and of long ones are mixed.
        assert means != sorted(means) and means != sorted(means, reverse=True)
        spreads = [max(sizes[index] for index in batch) - min(sizes[index] for index in batch) for batch in batches]
        return sorted(spreads)[len(spreads) // 2]

    assert widest(None) > 50 and widest(250) < 10


def test_shares_are_balanced_and_keep_the_order_of_the_batch() -> None:
    sizes = [9, 1, 8, 2, 7, 3, 6, 4, 5, 5]
    assert all(part == sorted(part) for part in shares(range(10), sizes, 2))
    assert [sum(sizes[index] for index in part) for part in shares(range(10), sizes, 2)] == [25, 25]
    assert sorted(map(len, shares(range(3), [5, 5, 5], 3))) == [1, 1, 1]
    # Samples without tokens are dealt too.
    assert sorted(map(len, shares(range(4), [0, 0, 0, 0], 2))) == [2, 2]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 11}, "batch_size 11 does not fit: there are 10 training samples"),
        ({"batch_size": 2, "world_size": 3}, "set it between 3 and 10"),
        ({"batch_tokens": 8, "sizes": [1] * 9 + [9]}, "sample 9 has 9 tokens, more than the 8 of a batch"),
        ({"batch_tokens": 16, "sizes": [1] * 9 + [9], "world_size": 2}, "set train.batch_tokens to 18 or more"),
        ({"batch_tokens": 100, "sizes": [3] * 10}, "100 is more than the 30 tokens of the training split can fill"),
        ({"batch_tokens": 36, "sizes": [3] * 10, "world_size": 3}, "36 is more than the 30 tokens"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampler(10, seed=0, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", [{"batch_size": 4, "budget": None}, {"batch_size": None, "budget": 9}], ids=str)
def test_evaluation_meets_each_sample_once_over_ranks(by: dict[str, Any]) -> None:
    sizes = [2 + index % 3 for index in range(13)]
    plans = [plan for rank in range(2) for plan in evaluation_plans(13, sizes=sizes, rank=rank, world_size=2, **by)]
    assert sorted(index for plan in plans for index in plan.indices) == list(range(13))
    assert evaluation_plans(1, batch_size=None, budget=9, sizes=[1], rank=1, world_size=2) == []


def test_sizes_come_from_shapes_and_an_unreadable_shape_counts_one() -> None:
    dataset = toy_config(Path("run"), data={"samples": 4}).data.build("train")
    assert sample_sizes(dataset, {"": ToyTokenizer()}) == [2, 3, 4, 5]

    def broken(index: int) -> tuple[int]:
        raise BadSample(f"{index}", "its header is cut short")

    dataset.shape = broken  # type: ignore[method-assign]
    assert sample_sizes(dataset, {"": ToyTokenizer()}) == [1, 1, 1, 1]


@pytest.mark.parametrize("by", [{"batch_size": 4, "budget": None}, {"batch_size": None, "budget": 9}], ids=str)
def test_a_limit_gives_the_first_batches(by: dict[str, Any]) -> None:
    sizes = [2 + index % 3 for index in range(13)]
    everything = evaluation_plans(13, sizes=sizes, order=range(12, -1, -1), rank=1, world_size=2, **by)
    few = evaluation_plans(13, sizes=sizes, order=range(12, -1, -1), rank=1, world_size=2, limit=2, **by)
    assert few == everything[: 1 if by["batch_size"] else 2]


def test_batches_of_samples_are_the_same_on_any_number_of_ranks() -> None:
    def dealt(world_size: int, limit: int | None) -> list[tuple[int, tuple[int, ...]]]:
        result = [
            (plan.at.batch, plan.indices)
            for rank in range(world_size)
            for plan in evaluation_plans(
                23, batch_size=4, budget=None, sizes=None, rank=rank, world_size=world_size, limit=limit
            )
        ]
        return sorted(result)

    for limit in (None, 1, 4):
        assert dealt(1, limit) == dealt(2, limit) == dealt(5, limit) == dealt(9, limit)
    assert [number for number, _ in dealt(2, None)] == list(range(6))


def test_a_data_set_of_any_length_is_sampled_in_no_memory() -> None:
    length = 10**12
    tracemalloc.start()
    shares = [Sampler(length, seed=1, batch_size=64, rank=rank, world_size=2) for rank in range(2)]
    at = Position(3, 10**10 - 7)
    plans = [list(islice(sampler.plans(at), 9)) for sampler in shares]
    (few,) = evaluation_plans(length, batch_size=8, budget=None, sizes=None, order=shares[0].order(0), limit=1)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    seen = [index for mine in plans for plan in mine for index in plan.indices]
    assert len(set(seen)) == len(seen) == 64 * 9 and max(seen) < length
    assert plans[0][3].following == plans[0][4].at
    assert list(islice(shares[0].plans(plans[0][3].following), 5)) == plans[0][4:]
    assert len(few.indices) == 8
