from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.train.build import build_data
from hrt_mm.train.data import TrainStream, load, worker_deaths_named
from hrt_mm.train.sampler import Plan, Position, Sampler
from hrt_mm.train.samples import BadSamples, BatchMaker, Loaded, together
from hrt_mm.train.seeding import seed_all
from tests.train.toy_training import toy_config

START = Position()


def maker(**data: Any) -> BatchMaker:
    config = toy_config(Path("run"), data=data)
    return build_data(config, ["train"]).maker(config, "train")


def loaded(workers: int, start: Position = START, count: int = 12, **data: Any) -> list[Loaded]:
    sampler = Sampler(20, seed=0, batch_size=6)
    stream: Iterator[Loaded] = load(maker(samples=20, **data), sampler.plans(start), workers=workers)
    return list(islice(stream, count))


def assert_equal_batches(ours: list[Loaded], theirs: list[Loaded]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.plan == other.plan
        assert one.batch is not None
        assert other.batch is not None
        assert torch.equal(one.batch.tokens.x, other.batch.tokens.x)
        assert one.batch.target is not None
        assert torch.equal(one.batch.target, other.batch.target)  # type: ignore[arg-type]
        assert one.batch.names == other.batch.names


def test_workers_change_nothing_nor_does_starting_later() -> None:
    alone = loaded(0)
    assert_equal_batches(loaded(2), alone)
    for workers in (0, 2):
        assert_equal_batches(loaded(workers, alone[4].plan.following, 7), alone[5:])


def test_augmentation_is_new_in_each_epoch() -> None:
    batches = loaded(0)
    first, second = (
        {
            name: value
            for item in part
            if item.batch
            for name, value in zip(item.batch.names, item.batch.tokens.split(), strict=True)
        }
        for part in (batches[:3], batches[3:6])
    )
    common = first.keys() & second.keys()
    assert common
    assert not any(torch.equal(first[name], second[name]) for name in common)


def test_the_global_generators_are_left_alone() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.random())  # noqa: NPY002

    seed_all(5)
    expected = drawn()
    seed_all(5)
    loaded(0)
    assert drawn() == expected


def plan(*indices: int) -> Plan:
    return Plan(Position(), indices, Position(0, 1))


def test_bad_samples_of_every_kind_are_left_out_and_named() -> None:
    result = maker(unreadable=(1,), empty=(2,), mislabelled=(3,))[plan(0, 1, 2, 3, 4)]
    assert result.batch is not None
    assert result.batch.names == ("train/0", "train/4")
    assert sorted(str(bad) for bad in result.bad) == [
        "train/1: it is cut short",
        "train/2: it is empty",
        "train/3: label 'strange' is unknown",
    ]


def test_dropping_a_sample_leaves_the_others_as_they_were() -> None:
    whole, part = maker()[plan(0, 1, 2)], maker(empty=(1,))[plan(0, 1, 2)]
    assert whole.batch is not None
    assert part.batch is not None
    assert torch.equal(part.batch.tokens.split()[1], whole.batch.tokens.split()[2])


def test_a_batch_may_be_left_empty() -> None:
    result = maker(unreadable=(0, 1))[plan(0, 1)]
    assert result.batch is None
    assert len(result.bad) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_that_is_no_samples_own_comes_through_plainly(workers: int) -> None:
    class Strict(BatchMaker):
        def _load(self, plan: Plan) -> Loaded:
            raise ConfigError("set this to that")

    own = maker()
    strict = Strict(own.dataset, own.collator, 0)
    stream = TrainStream(
        strict, Sampler(20, seed=0, batch_size=6), Position(), BadSamples("train", 20, 0.5), workers=workers
    )
    with pytest.raises(ConfigError, match=r"^set this to that$"):
        next(stream)
    stream.close()


def test_the_stream_skips_empty_batches_and_counts_what_was_consumed(caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(20, seed=0, batch_size=2)
    plans = list(islice(sampler.plans(Position()), 4))
    bad = BadSamples("train", 20, 0.5)
    stream = TrainStream(maker(samples=20, unreadable=plans[1].indices), sampler, Position(), bad)
    with caplog.at_level(logging.WARNING):
        batches = [next(stream) for _ in range(3)]
    assert [batch.names for batch in batches] == [
        tuple(f"train/{index}" for index in plans[number].indices) for number in (0, 2, 3)
    ]
    assert stream.position == plans[3].following
    assert bad.counts()["seen"] == 8
    assert bad.counts()["bad"] == 2
    assert len(caplog.messages) == 2
    assert "skipping a bad sample of train: train/" in caplog.text


def told(bad: BadSamples, seen: int, names: list[str]) -> None:
    bad.add(Loaded(plan(*range(seen)), None, tuple(BadSample(name, "broken") for name in names)))


def test_more_than_the_allowed_share_stops_with_the_list() -> None:
    bad = BadSamples("train", 10_000, 0.1)
    told(bad, 15, [f"few{number}" for number in range(15)])
    with pytest.raises(UserError, match=r"16 of the 16 samples of train(?s:.)*max_bad_share 0.1(?s:.)*few0: broken"):
        told(bad, 1, ["last"])


def test_a_small_split_is_judged_once_it_was_seen() -> None:
    bad = BadSamples("val", 20, 0.1)
    told(bad, 10, ["a", "b", "c"])
    with pytest.raises(UserError, match="3 of the 20 samples of val"):
        told(bad, 10, [])


def test_a_bad_sample_of_two_epochs_is_one() -> None:
    bad = BadSamples("train", 41, 0.03)
    told(bad, 41, ["a.png"])
    with pytest.raises(UserError, match=r"^1 of the 41 samples of train cannot be used \(2 of 64 reads so far\), more"):
        told(bad, 23, ["a.png"])
    with pytest.raises(
        UserError, match=r"^2 of the 41 samples of train read so far cannot be used \(1 different file\)"
    ):
        told(BadSamples("train", 41, 0.03), 41, ["a.png", "a.png"])


def test_none_allowed_means_none() -> None:
    with pytest.raises(UserError, match="1 of the 8"):
        told(BadSamples("train", 10_000, 0.0), 8, ["a"])


def test_within_the_share_goes_on_and_a_name_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadSamples("train", 1000, 0.1)
    for _ in range(20):
        told(bad, 100, ["a", "b"])
    assert bad.counts() == {"seen": 2000, "bad": 40, "names": {"a": "broken", "b": "broken"}, "shards": {}}
    assert len(caplog.messages) == 2
    again = BadSamples("train", 1000, 0.1)
    again.restore(bad.counts())
    assert together([again.counts(), {"seen": 1, "bad": 1, "names": {"c": "x"}, "shards": {}}])["bad"] == 41


def test_a_dead_worker_is_named() -> None:
    class Deadly(BatchMaker):
        def __getitem__(self, plan: Plan) -> Loaded:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    own = maker()
    deadly = Deadly(own.dataset, own.collator, 0)
    with pytest.raises(UserError, match=r"a loader worker died: DataLoader worker \(pid.* \d+\).*train.workers=0"):  # noqa: SIM117
        with worker_deaths_named():
            next(load(deadly, [plan(0)], workers=1))


class Crashing(Dataset):
    """A dataset of which some samples end the process that reads them."""

    classes = ("a", "b")

    def __init__(self, dataset: Dataset, deadly: set[int], broken: bool = False) -> None:
        self.dataset, self.deadly, self.broken = dataset, deadly, broken

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if index in self.deadly:
            if self.broken:
                raise BadSample(self.name(index), "broken")
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.dataset[index]

    def name(self, index: int) -> str:
        return f"file {index}"


def crashing(deadly: set[int], **options: Any) -> BatchMaker:
    own = maker(samples=20)
    return BatchMaker(Crashing(own.dataset, deadly, **options), own.collator, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_that_kills_its_worker_is_named_and_the_run_goes_on(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = Sampler(20, seed=0, batch_size=6)
    expected = list(islice(load(crashing({3, 11}, broken=True), sampler.plans(START), workers=0), 9))
    result = list(islice(load(crashing({3, 11}), sampler.plans(START), workers=workers), 9))
    assert_equal_batches(result, expected)
    for ours, theirs in zip(result, expected, strict=True):
        assert [sample.name for sample in ours.bad] == [sample.name for sample in theirs.bad]
    assert "reading it killed a loader worker" in next(str(sample) for one in result for sample in one.bad)
    assert "reading file 3 killed a loader worker" in caplog.text and "reading file 11 killed" in caplog.text


def test_workers_that_die_leave_the_signal_to_others() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    list(islice(load(crashing(set()), [plan(0)], workers=1), 1))
    assert signal.getsignal(signal.SIGCHLD) is before
