"""Partitions against slow definitions in plain Python."""

from __future__ import annotations

import gc
import pickle
import random
import weakref

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.core.spans import Spans

LENGTHS = [
    [],
    [0],
    [1],
    [0, 0, 0],
    [0, 5, 0],
    [1, 1, 1, 1],
    [4, 4, 4],
    [7, 3, 0, 1, 12],
    [0, 0, 6, 0, 2, 0],
]
IDS = ["-".join(map(str, lengths)) or "none" for lengths in LENGTHS]


def random_lengths(rng: random.Random) -> list[int]:
    kind = rng.choice(["any", "uniform", "empty"])
    count = rng.randint(0, 7)
    if kind == "uniform":
        return [rng.randint(0, 9)] * count
    return [rng.randint(0, 9) * (kind == "any" or rng.random() < 0.4) for _ in range(count)]


def starts_of(lengths: list[int]) -> list[int]:
    return [sum(lengths[:index]) for index in range(len(lengths))]


def cut_by_hand(lengths: list[int], size: int, first: int = 0) -> list[int]:
    pieces = []
    for length in lengths:
        lead = first or size
        while length > 0:
            pieces.append(min(lead, length))
            length -= lead
            lead = size
    return pieces


def partition_of(lengths: list[int], rng: random.Random, *, empty: bool = False) -> tuple[list[int], list[int]]:
    """Random groups of each run, and how many each run got."""
    groups: list[int] = []
    counts: list[int] = []
    for length in lengths:
        before = len(groups)
        while length > 0:
            size = rng.randint(0 if empty else 1, length)
            groups.append(size)
            length -= size
        counts.append(len(groups) - before)
    return groups, counts


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
def test_from_lengths(lengths: list[int]) -> None:
    spans = Spans.from_lengths(lengths)
    assert len(spans) == len(lengths)
    assert spans.total == sum(lengths)
    assert spans.max_seqlen == max(lengths, default=0)
    assert spans.uniform == (lengths[0] if lengths and len(set(lengths)) == 1 else None)
    assert spans.cu_seqlens.dtype == torch.int32
    assert spans.cu_seqlens.tolist() == [*starts_of(lengths), sum(lengths)]
    assert spans.lengths.tolist() == spans.counts.tolist() == lengths
    assert spans.ids.tolist() == [run for run, length in enumerate(lengths) for _ in range(length)]
    assert spans.positions.tolist() == [index for length in lengths for index in range(length)]
    assert [len(part) for part in spans.split(torch.zeros(spans.total, 2))] == lengths
    assert spans.singletons.lengths.tolist() == [1] * len(lengths)


def test_from_lengths_takes_tensors() -> None:
    assert Spans.from_lengths(torch.tensor([2, 3], dtype=torch.int32)).lengths.tolist() == [2, 3]


def test_split_gives_views() -> None:
    x = torch.arange(10.0)
    parts = Spans.from_lengths([3, 0, 7]).split(x)
    parts[2][0] = -1
    assert x[3] == -1


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_cut(lengths: list[int], size: int) -> None:
    spans = Spans.from_lengths(lengths)
    assert spans.cut(size).lengths.tolist() == cut_by_hand(lengths, size)
    for first in range(1, min(size, 5)):
        assert spans.cut(size, first).lengths.tolist() == cut_by_hand(lengths, size, first)


def test_cut_of_many_random_partitions() -> None:
    rng = random.Random(1)
    for _ in range(300):
        lengths, size = random_lengths(rng), rng.randint(1, 6)
        first = rng.randint(0, size)
        pieces = Spans.from_lengths(lengths).cut(size, first)
        assert pieces.lengths.tolist() == cut_by_hand(lengths, size, first), (lengths, size, first)
        assert pieces.total == sum(lengths)


def test_over_and_under_of_many_random_partitions() -> None:
    rng = random.Random(2)
    for _ in range(300):
        lengths = random_lengths(rng)
        sizes, counts = partition_of(lengths, rng)
        runs, groups = Spans.from_lengths(lengths), Spans.from_lengths(sizes)
        over = runs.coarsen(groups)
        assert over.lengths.tolist() == counts, (lengths, sizes)
        assert groups.merge(over).lengths.tolist() == lengths, "merge is not the inverse of coarsen"
        assert over.total == len(groups)


def test_over_counts_empty_groups_once() -> None:
    rng = random.Random(3)
    for _ in range(100):
        lengths = [rng.randint(1, 9) for _ in range(rng.randint(1, 5))]
        sizes, _ = partition_of(lengths, rng, empty=True)
        over = Spans.from_lengths(lengths).coarsen(Spans.from_lengths(sizes))
        assert over.total == len(sizes)
        at = 0
        for length, count in zip(lengths, over.lengths.tolist(), strict=True):
            assert sum(sizes[at : at + count]) == length
            at += count


def test_from_starts_of_many_random_masks() -> None:
    rng = random.Random(4)
    for _ in range(300):
        lengths = random_lengths(rng)
        mask = torch.tensor([rng.random() < 0.3 for _ in range(sum(lengths))], dtype=torch.bool)
        before = mask.clone()
        groups, samples = Spans.from_starts(mask, Spans.from_lengths(lengths))
        assert torch.equal(mask, before), "the caller's mask was written to"
        firsts = {start for start, length in zip(starts_of(lengths), lengths, strict=True) if length}
        starts = sorted(firsts | set(mask.nonzero().flatten().tolist()))
        assert groups.host[:-1].tolist() == starts
        assert groups.total == sum(lengths)
        assert (groups.lengths > 0).all()
        assert groups.merge(samples).lengths.tolist() == lengths


def test_concat() -> None:
    parts = [Spans.from_lengths(lengths) for lengths in ([2, 0], [], [5])]
    assert Spans.concat(parts).lengths.tolist() == [2, 0, 5]
    assert Spans.concat([]).total == 0


def test_derived_partitions_are_made_once() -> None:
    spans = Spans.from_lengths([5, 4, 7])
    groups = spans.cut(2)
    assert spans.cut(2) is groups
    assert spans.cut(2, 1) is not groups
    assert spans.coarsen(groups) is spans.coarsen(groups)
    assert spans.ids is spans.ids
    assert spans.to("cpu") is spans


def test_a_new_partition_never_meets_the_plan_of_an_old_one() -> None:
    runs = Spans.from_lengths([4, 4])
    for size in (1, 2, 4) * 20:
        groups = Spans.from_lengths([size] * (8 // size))
        assert runs.coarsen(groups).lengths.tolist() == [4 // size] * 2


def test_partitions_of_others_do_not_pile_up() -> None:
    runs = Spans.from_lengths([8, 8])
    seen = []
    for _ in range(5):
        groups = Spans.from_lengths([4, 4, 4, 4])
        runs.coarsen(groups)
        seen.append(weakref.ref(groups))
    del groups
    assert all(reference() is None for reference in seen), "a fixed batch would keep the groups of every step"


def test_a_spans_dies_with_its_last_reference() -> None:
    gc.collect()
    gc.disable()
    try:
        spans = Spans.from_lengths([3, 5])
        groups = spans.cut(2)
        groups.merge(spans.coarsen(groups))
        _ = spans.ids, spans.singletons, spans.positions
        alive = weakref.ref(spans)
        del spans, groups
        assert alive() is None, "a cycle keeps device memory until the collector runs"
    finally:
        gc.enable()


def test_pickles_without_what_it_derived() -> None:
    runs = Spans.from_lengths([4, 4])
    runs.coarsen(runs.cut(2))
    copy = pickle.loads(pickle.dumps(runs))
    assert copy.lengths.tolist() == [4, 4]
    # Keys made of addresses would mean other objects in another process.
    for size in (1, 4, 2):
        assert copy.coarsen(Spans.from_lengths([size] * (8 // size))).lengths.tolist() == [4 // size] * 2
    assert len(pickle.dumps(runs)) == len(pickle.dumps(Spans.from_lengths([4, 4])))


def test_what_is_made_in_inference_mode_serves_training() -> None:
    spans = Spans.from_lengths([2, 3])
    with torch.inference_mode():
        _ = spans.ids, spans.counts, spans.positions, spans.cut(2).ids
    x = torch.randn(5, 2, requires_grad=True)
    for index in (spans.ids, spans.positions, spans.cut(2).ids):
        x.index_select(0, index).sum().backward()


def test_repr_says_what_matters() -> None:
    assert repr(Spans.from_lengths([4, 4])) == "Spans(runs=2, total=8, length=4, device=cpu)"
    assert repr(Spans.from_lengths([4, 2])) == "Spans(runs=2, total=6, max_seqlen=4, device=cpu)"


def test_errors_say_what_was_expected() -> None:
    spans = Spans.from_lengths([3, 4])
    with pytest.raises(UserError, match="run lengths must be 0 or more, got -2"):
        Spans.from_lengths([3, -2])
    with pytest.raises(UserError, match="a window or stride must be 1 or more, got 0"):
        spans.cut(0)
    with pytest.raises(UserError, match="groups cover 6 rows, their sequences 7"):
        spans.coarsen(Spans.from_lengths([6]))
    with pytest.raises(UserError, match="a group crosses the boundary between two sequences"):
        spans.coarsen(Spans.from_lengths([2, 2, 3]))
    with pytest.raises(UserError, match=r"bool of shape \(7,\), got torch.int64 \(7,\)"):
        Spans.from_starts(torch.zeros(7, dtype=torch.int64), spans)
    with pytest.raises(UserError, match=r"bool of shape \(7,\), got torch.bool \(6,\)"):
        Spans.from_starts(torch.zeros(6, dtype=torch.bool), spans)
