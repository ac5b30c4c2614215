from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_modalities.common.stratification import assign_folds, assign_splits, joined_units

PLACES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=120)
SHARES = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))
SEEDS = st.integers(-3, 100)


def table(sides: list[str], labels: list[str]) -> dict[str, Counter[str]]:
    result: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for side, label in zip(sides, labels, strict=True):
        result[label][side] += 1
    return result


@settings(max_examples=80)
@given(st.lists(st.integers(0, 6), max_size=200), SHARES, SEEDS)
def test_each_class_has_its_shares_to_less_than_a_sample(
    classes: list[int], shares: tuple[float, float], seed: int
) -> None:
    labels = [f"c{number}" for number in classes]
    val, test = shares
    sides = assign_splits([f"{label}/{index}" for index, label in enumerate(labels)], labels, val, test, seed)
    assert len(sides) == len(labels) and set(sides) <= {"train", "val", "test"}
    for item in table(sides, labels).values():
        count = item.total()
        assert item["train"] > 0
        for split, share in (("val", val), ("test", test)):
            if count >= 3 and share * count >= 0.5:
                assert item[split]
            assert abs(item[split] - share * count) < 1 or count < 3
        assert abs(item["train"] - (1 - val - test) * count) < 2


@settings(max_examples=80)
@given(PLACES, SHARES, SEEDS, st.randoms(use_true_random=False))
def test_groups_stay_whole_and_the_order_does_not_matter(
    positions: list[tuple[int, int]], shares: tuple[float, float], seed: int, order: random.Random
) -> None:
    labels = [None if label == 5 else f"c{label}" for label, _ in positions]
    files = [f"f{index // 2}" for index in range(len(positions))]
    groups = [None if group > 25 else f"g{group}" for _, group in positions]
    keys_of = [(file, *([group] if group is not None else [])) for file, group in zip(files, groups, strict=True)]
    units = joined_units(keys_of)
    sides = assign_splits(units, labels, *shares, seed)
    for keys in (files, groups):
        for key in set(keys) - {None}:
            assert len({side for side, item in zip(sides, keys, strict=True) if item == key}) == 1
    if positions:
        assert "train" in sides
    shuffled = list(range(len(positions)))
    order.shuffle(shuffled)
    again = joined_units([keys_of[at] for at in shuffled])
    assert again == [units[at] for at in shuffled]
    assert assign_splits(again, [labels[at] for at in shuffled], *shares, seed) == [sides[at] for at in shuffled]


@settings(max_examples=60)
@given(PLACES, st.integers(2, 6), SEEDS)
def test_folds_partition_the_samples(positions: list[tuple[int, int]], count: int, seed: int) -> None:
    labels = [f"c{label}" for label, _ in positions]
    single = [f"s{index}" for index in range(len(positions))]
    folds = assign_folds(single, labels, count, seed)
    assert len(folds) == len(positions) and set(folds) <= set(range(count))
    for item in table([str(fold) for fold in folds], labels).values():
        sizes = [item[str(fold)] for fold in range(count)]
        assert max(sizes) - min(sizes) <= 1
    groups = [f"g{group}" for _, group in positions]
    grouped = assign_folds(groups, labels, count, seed)
    assert all(len({fold for fold, item in zip(grouped, groups, strict=True) if item == key}) == 1 for key in groups)


def test_each_class_of_three_groups_is_in_every_split() -> None:
    labels = [f"c{index // 40}" for index in range(400)]
    groups = [f"r{index // 9}" for index in range(400)]
    for seed in range(5):
        result = table(assign_splits(groups, labels, 0.1, 0.1, seed), labels)
        assert all(item["train"] and item["val"] and item["test"] for item in result.values())
        assert all(item["train"] >= 20 for item in result.values())


def test_groups_of_all_classes_share_them_out_evenly() -> None:
    """As speakers do, who say every word."""
    labels = [f"word{index % 10}" for index in range(4000)]
    speakers = [f"speaker{index // 100}" for index in range(4000)]
    result = table(assign_splits(speakers, labels, 0.1, 0.1, 0), labels)
    assert all(item == {"train": 320, "val": 40, "test": 40} for item in result.values())


def test_a_group_that_dwarfs_the_others_is_trained_on() -> None:
    groups = ["large"] * 100 + ["a"] * 5 + ["b"] * 5
    sides = dict(zip(groups, assign_splits(groups, ["x"] * 110, 0.1, 0.1, 0), strict=True))
    assert sides["large"] == "train" and {sides["a"], sides["b"]} == {"val", "test"}


def test_small_classes_balance_each_other() -> None:
    labels = [f"c{index % 50}" for index in range(50 * 13)]
    sides = Counter(assign_splits([str(index) for index in range(50 * 13)], labels, 0.1, 0.1, 0))
    assert abs(sides["val"] - 65) <= 1 and abs(sides["test"] - 65) <= 1


def test_classes_too_small_for_a_share_take_turns() -> None:
    labels = [f"c{index // 3}" for index in range(300)]
    names = [str(index) for index in range(300)]
    sides = assign_splits(names, labels, 0.1, 0.1, 0)
    assert Counter(sides) == {"train": 240, "val": 30, "test": 30}
    assert all(item["train"] for item in table(sides, labels).values())
    assert Counter(assign_splits(names[:9], ["x"] * 9, 0.1, 0.1, 0)) == {"train": 7, "val": 1, "test": 1}
    assert Counter(assign_splits(names[:4], ["x"] * 4, 0.01, 0.01, 0)) == {"train": 4}


def test_rounding_does_not_end_folds_of_groups() -> None:
    # Three folds lack a third of a sample more than thirds of others add up to.
    for folds in range(2, 12):
        for groups in range(folds, 30):
            labels = [f"c{index % 3}" for index in range(3 * groups)]
            result = assign_folds([f"g{index // 3}" for index in range(3 * groups)], labels, folds, 0)
            assert set(result) == set(range(folds))


def test_a_class_that_takes_more_than_its_share_leaves_less_to_others() -> None:
    sizes = {"a": 4, "b": 6, "c": 4}
    labels = [label for label, count in sizes.items() for _ in range(count)]
    sides = Counter(assign_splits([str(index) for index in range(len(labels))], labels, 0.1, 0.1, 0))
    assert sides["val"] + sides["test"] == 3


def test_another_seed_gives_another_split_and_the_same_seed_the_same() -> None:
    names = [f"{index}.png" for index in range(200)]
    labels = [str(index % 2) for index in range(200)]
    first = assign_splits(names, labels, 0.2, 0.2, 0)
    assert first == assign_splits(names, labels, 0.2, 0.2, 0) != assign_splits(names, labels, 0.2, 0.2, 1)
    # The same on every machine.
    assert [index for index, side in enumerate(first[:40]) if side == "test"] == [16, 19, 22, 25, 38]


def test_a_hundred_thousand_samples_take_seconds() -> None:
    labels = [f"c{index % 5000}" for index in range(100_000)]
    names = [f"{index}.png" for index in range(100_000)]
    began = time.process_time()
    sides = assign_splits(names, labels, 0.1, 0.1, 0)
    # A second here; a quadratic algorithm would take hours.
    assert time.process_time() - began < 30
    assert Counter(sides) == {"train": 80_000, "val": 10_000, "test": 10_000}


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_any_seed_will_do(seed: int) -> None:
    assert Counter(assign_splits(list("abcdefghij"), ["x"] * 10, 0.1, 0.1, seed))["train"] == 8
