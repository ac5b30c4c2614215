"""Streams that are split over ranks: each sample once an epoch, the same batches on any number of ranks, resumption."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, cast

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.data.sample import Sample
from hrt_mm.data.stream import (
    ATTEMPTS,
    InOrder,
    Retried,
    RowSource,
    ShardError,
    StreamedDataset,
    StreamError,
    UnreachableError,
    number_of,
    shard_and_row,
)
from hrt_mm.train.data import ReadAhead, TrainStream
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.sampler import Plan, Position
from hrt_mm.train.samples import BadSamples, BatchMaker
from hrt_mm.train.streamed import StreamSampler, joined

LENGTHS = (7, 0, 11, 5, 9, 3, 8)
START = Position()


class Numbers(RowSource):
    """``(shard, row)``, up to where the shard is broken or its server stops."""

    def __init__(self, shard: int, state: Any, stream: NumberStream) -> None:
        self.shard, self.row, self.stream = shard, state or 0, stream
        stream.opened.append(shard)

    def __next__(self) -> tuple[int, int]:
        if self.row == self.stream.broken.get(self.shard):
            raise ShardError(f"s{self.shard}", "it is cut")
        if self.row == self.stream.stops.get(self.shard):
            raise StreamError("the server does not answer")
        if self.row == self.stream.lengths[self.shard]:
            raise StopIteration
        self.row += 1
        return self.shard, self.row - 1

    def state(self) -> Any:
        return self.row if self.stream.has_states else None


class NumberStream(StreamedDataset):
    where = "numbers"
    classes = None

    def __init__(self, lengths: Sequence[int] = LENGTHS, readers: int | None = 4, buffer: int = 12) -> None:
        self.lengths, self.readers, self.shuffle_buffer = lengths, readers, buffer
        self.shards = [f"s{number}" for number in range(len(lengths))]
        self.broken: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.opened: list[int] = []
        self.has_states = True

    def open(self, state: Any = None) -> RowSource:
        return InOrder(self.shards, self.open_shard, state, self.where, sum(self.lengths))

    def open_shard(self, shard: int, state: Any = None) -> RowSource:
        return Numbers(shard, state, self)

    def read(self, number: int, row: Any) -> Sample:
        return Sample(torch.tensor(row), None, self.name(number))

    def name(self, index: int) -> str:
        return self.row_name(index)

    def rows(self) -> set[tuple[int, int]]:
        """All rows before a break."""
        return {
            (shard, row)
            for shard, length in enumerate(self.lengths)
            for row in range(min(length, self.broken.get(shard, length)))
        }


def plans(
    stream: NumberStream, start: Position = START, rank: int = 0, ranks: int = 1, size: int = 6
) -> Iterator[Plan]:
    return StreamSampler(stream, seed=5, batch_size=size, rank=rank, world_size=ranks).plans(start)


def batches(
    stream: NumberStream, count: int, ranks: int = 1, start: Position = START, size: int = 6
) -> tuple[list[list[tuple[int, Any]]], Position]:
    """The rows of batches over all ranks, each with its epoch, and the position after them as a checkpoint has it."""
    of_ranks = [list(islice(plans(stream, start, rank, ranks, size), count)) for rank in range(ranks)]
    merged = [
        sorted(chain(*(zip(plan.epochs, plan.rows, strict=True) for plan in together)))
        for together in zip(*of_ranks, strict=True)
    ]
    position = joined([of_rank[-1].following for of_rank in of_ranks])
    return merged, Position(position.epoch, position.batch, json.loads(json.dumps(position.stream)))


def first_epoch(merged: Sequence[Sequence[tuple[int, Any]]]) -> Counter[Any]:
    return Counter(row for batch in merged for epoch, row in batch if epoch == 0)


def test_batches_are_the_same_on_any_number_of_ranks_and_have_each_row_once_an_epoch() -> None:
    whole, _ = batches(NumberStream(), 40)
    assert first_epoch(whole) == Counter(NumberStream().rows())
    second = Counter(row for batch in whole for epoch, row in batch if epoch == 1)
    assert second == Counter(NumberStream().rows())
    assert all(len(batch) == 6 for batch in whole)
    for ranks in (2, 3, 4, 5, 6):
        assert batches(NumberStream(), 40, ranks)[0] == whole, ranks
    for rank in range(2):
        stream = NumberStream()
        of_rank = list(islice(plans(stream, rank=rank, ranks=2), 3))
        # Only shards of its own readers, and the sizes of shares stay about equal.
        assert {shard for plan in of_rank for shard, _ in plan.rows} <= set(stream.opened)
        assert all(len(plan.rows) == 3 for plan in of_rank)
    opened = []
    for rank in range(2):
        stream = NumberStream((50,) * 7)
        list(islice(plans(stream, rank=rank, ranks=2), 3))
        opened.append(set(stream.opened))
    assert len(opened[0]) == len(opened[1]) == 2 and not opened[0] & opened[1]


@pytest.mark.parametrize("has_states", [True, False])
def test_every_position_is_resumed_on_another_number_of_ranks(has_states: bool) -> None:
    def stream() -> NumberStream:
        numbers = NumberStream()
        numbers.has_states = has_states
        return numbers

    whole, _ = batches(stream(), 24)
    for at in range(1, 20):
        _, position = batches(stream(), at, 2)
        for ranks in (1, 3, 4, 6):
            assert batches(stream(), 3, ranks, position)[0] == whole[at : at + 3], (at, ranks)
    # Interrupted after every batch, each time by another number of ranks.
    position, read = Position(), list[Any]()
    for at in range(20):
        merged, position = batches(stream(), 1, 1 + at % 4, position)
        read += merged
    assert read == whole[:20]


def of_tokens(stream: NumberStream, start: Position = START, rank: int = 0, ranks: int = 1) -> Iterator[Plan]:
    """Batches of 48 tokens, of samples of 1 to 5."""
    sampler = StreamSampler(
        stream, seed=5, batch_tokens=48, size=lambda number, row: 1 + row[1] % 5, rank=rank, world_size=ranks
    )
    return sampler.plans(start)


def test_batches_by_tokens_are_the_same_on_any_number_of_ranks() -> None:
    def batches_of(ranks: int, start: Position, count: int) -> tuple[list[list[Any]], Position]:
        parts = [list(islice(of_tokens(NumberStream(), start, rank, ranks), count)) for rank in range(ranks)]
        assert all(plan.rows for plans_of_rank in parts for plan in plans_of_rank)
        merged = [
            sorted(chain(*(zip(plan.epochs, plan.rows, strict=True) for plan in together)))
            for together in zip(*parts, strict=True)
        ]
        position = joined([of_rank[-1].following for of_rank in parts])
        return merged, Position(position.epoch, position.batch, json.loads(json.dumps(position.stream)))

    whole, _ = batches_of(1, START, 24)
    assert first_epoch(whole) == Counter(NumberStream().rows())
    for batch in whole:
        # Four readers have 12 tokens each, and a row that does not fit has 5 at most.
        assert 4 * 7 < sum(1 + row % 5 for _, (_, row) in batch) <= 48
    for ranks in (2, 3, 4, 6):
        assert batches_of(ranks, START, 24)[0] == whole
    for at in (1, 4, 9, 15):
        _, position = batches_of(2, START, at)
        for ranks in (1, 4, 6):
            assert batches_of(ranks, position, 3)[0] == whole[at : at + 3]
    long = StreamSampler(NumberStream(), seed=5, batch_tokens=16, size=lambda number, row: 5)
    assert "has 5 tokens, more than the 4 of each of 4 readers; set train.batch_tokens to 20" in str(
        next(long.plans(START)).error
    )
    few = StreamSampler(NumberStream(), seed=5, batch_tokens=16, size=lambda number, row: 4, world_size=5)
    assert "has 4 samples, fewer than the 5 ranks; raise it" in str(next(few.plans(START)).error)


def test_a_broken_shard_is_named_and_only_its_rest_is_lost() -> None:
    stream = NumberStream()
    stream.broken = {2: 4, 4: 0}
    whole, _ = batches(stream, 40)
    assert first_epoch(whole) == Counter(stream.rows())
    named = [
        [bad for plan in islice(plans(stream, rank=rank, ranks=2), 12) for bad in plan.skipped] for rank in range(2)
    ]
    assert {(bad.name, bad.reason) for of_rank in named for bad in of_rank} == {
        ("s2", "it is cut"),
        ("s4", "it is cut"),
    }
    # In order, too.
    stream.readers = 1
    read = list(islice(plans(stream, size=1), len(stream.rows())))
    assert {plan.rows[0] for plan in read} == stream.rows()
    assert {bad.name for plan in read for bad in plan.skipped} == {"s2", "s4"}


def test_how_many_readers_are_chosen(caplog: pytest.LogCaptureFixture) -> None:
    def chosen(ranks: int, shards: int = 100, size: int = 64, readers: int | None = None) -> int:
        stream = NumberStream((30,) * shards, readers)
        plan = next(plans(stream, ranks=ranks, size=size))
        return int(plan.following.stream.get("readers", 1))

    assert (chosen(1), chosen(2), chosen(3), chosen(6), chosen(32)) == (1, 16, 12, 12, 32)
    assert (chosen(2, shards=7), chosen(2, size=5), chosen(1, readers=8), chosen(4, readers=8)) == (4, 4, 8, 8)
    assert not caplog.messages
    assert chosen(4, shards=3) == 1 and "from 3 shards, and there are 4 ranks: each rank reads all of it" in caplog.text
    with pytest.raises(ConfigError, match=r"data\.stream_readers 8 is too many: .* 7 shards, .* set 7 or fewer"):
        chosen(1, shards=7, readers=8)
    # A run that began in order goes on in order.
    stream = NumberStream(readers=None)
    third = list(islice(plans(stream), 3))[-1]
    (resumed,) = islice(plans(stream, third.at, ranks=2), 1)
    assert resumed.rows == third.rows[::2]


def test_a_stream_without_rows_and_one_that_stops_are_errors() -> None:
    (plan,) = plans(NumberStream((0,) * 4))
    assert isinstance(plan.error, StreamError) and "has no rows in the shards of reader 0" in str(plan.error)
    stream = NumberStream()
    stream.stops = {4: 2}
    *_, last = plans(stream)
    assert "does not answer; it stopped in epoch 0 after row 2 of s4. Resume (--resume)" in str(last.error)


def test_a_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("hrt_mm.data.stream.time.sleep", waits.append)

    class Flaky(Numbers):
        def __next__(self) -> tuple[int, int]:
            if self.row in failures:
                failures.remove(self.row)
                raise UnreachableError("no answer")
            return super().__next__()

    failures = [0, 3, 3, 6]
    assert list(Retried(lambda state: Flaky(2, state, NumberStream()))) == [(2, row) for row in range(11)]
    assert waits == [1, 1, 2, 1]
    failures, waits = [4] * 20, []
    monkeypatch.setattr("hrt_mm.data.stream.time.sleep", waits.append)
    source = Retried(lambda state: Flaky(2, state, NumberStream()))
    with pytest.raises(StreamError, match=rf"no answer \(attempt {ATTEMPTS} of {ATTEMPTS}\)"):
        list(source)
    assert waits == [1, 2, 4, 8, 16] and source.state() == 4


def test_numbers_of_rows_are_unique() -> None:
    numbers = [number_of(shard, row) for shard in range(3) for row in (0, 1, 1 << 39)]
    assert len(set(numbers)) == 9 and min(numbers) > 1 << 39
    assert shard_and_row(number_of(2, 77)) == (2, 77) and shard_and_row(77) == (None, 77)
    assert NumberStream().row_name(number_of(2, 7)) == "s2:7"


def test_plans_are_read_ahead_in_order_and_errors_arrive() -> None:
    ahead = ReadAhead(islice(plans(NumberStream()), 20))
    assert [plan.rows for plan in ahead] == [plan.rows for plan in islice(plans(NumberStream()), 20)]

    def failing() -> Iterator[Plan]:
        yield next(plans(NumberStream()))
        raise KeyError("broken")

    ahead = ReadAhead(failing())
    next(ahead)
    for _ in range(2):
        with pytest.raises(KeyError, match="broken"):
            next(ahead)
    endless = ReadAhead(plans(NumberStream()))
    next(endless)
    endless.close()
    assert endless._thread is not None
    endless._thread.join()


class Ranks(ProcessGroup):
    """The first of two ranks; what the other one says is given."""

    others: Sequence[int] = (0, 0, 0, 0)
    shards: Sequence[tuple[str, str]] = ()

    def sum_counts(self, *counts: int) -> list[int]:
        return [mine + other for mine, other in zip(counts, self.others, strict=True)]

    def gather(self, value: Any) -> list[Any]:
        return [value, list(self.shards)]


def stream_of(ranks: Ranks, stops: bool = False, share: float = 0.1) -> TrainStream:
    stream = NumberStream((9,) * 20)
    stream.stops = dict.fromkeys(range(20), 0) if stops else {}
    maker: Any = type("Maker", (), {"__getitem__": lambda self, plan: _Loaded(plan)})()
    sampler = StreamSampler(stream, seed=5, batch_size=6, world_size=1)
    return TrainStream(maker, sampler, Position(), BadSamples("train", 1 << 40, share, 20), ranks=ranks)


class _Loaded:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.bad, self.error = plan, (), plan.error
        self.batch: Any = type("Batch", (), {"towers": {}})()


def test_all_ranks_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(torch.device("cpu"))

    def others(*counts: int, shards: Sequence[tuple[str, str]] = ()) -> Ranks:
        monkeypatch.setattr(Ranks, "others", counts)
        monkeypatch.setattr(Ranks, "shards", shards)
        return ranks

    next(stream_of(others(0, 0, 0, 0)))
    with pytest.raises(StreamError, match="another rank cannot go on"):
        next(stream_of(others(0, 1, 0, 0)))
    with pytest.raises(UserError, match="another rank cannot go on") as refused:
        next(stream_of(others(1, 0, 0, 0)))
    assert not isinstance(refused.value, StreamError)
    with pytest.raises(StreamError, match="does not answer"):
        next(stream_of(others(0, 0, 0, 0), stops=True))
    # The other has an error of another kind, and would not take part in saving.
    with pytest.raises(UserError, match="does not answer") as refused:
        next(stream_of(others(1, 0, 0, 0), stops=True))
    assert not isinstance(refused.value, StreamError)
    stream = stream_of(others(0, 0, 0, 1, shards=[("s3", "it is cut")]))
    next(stream)
    next(stream)
    assert stream.bad.shards == {"s3": "it is cut"}
    others(0, 0, 0, 2, shards=[("s4", "it is cut"), ("s5", "it is cut")])
    with pytest.raises(StreamError, match=r"3 of the 20 shards of train cannot be read, more than(?s:.)*s5: it is cut"):
        next(stream)
    assert stream.bad.shards == {"s3": "it is cut"}


def test_augmentation_depends_on_the_epoch_of_each_sample() -> None:
    class Augmented(NumberStream):
        def read(self, number: int, row: Any) -> Sample:
            return Sample(torch.rand(2), None, self.name(number))

    collated: list[Sequence[Sample]] = []
    maker = BatchMaker(Augmented(), cast(Any, collated.append), 1)
    for at, numbers, epochs in ((3, (7, 8, 7), (0, 0, 1)), (9, (7,), (1,)), (4, (7,), (0,))):
        maker[Plan(Position(0, at), numbers, Position(), tuple((0, number) for number in numbers), epochs)]
    (first, second, again), (of_next,), (of_first,) = (
        [sample.value.tolist() for sample in batch] for batch in collated
    )
    assert first == of_first and again == of_next and len({tuple(first), tuple(second), tuple(again)}) == 3


def test_a_bad_row_is_named_by_its_shard() -> None:
    stream = NumberStream()
    assert isinstance(stream.read(number_of(1, 2), (1, 2)), Sample)
    assert str(BadSample(stream.name(number_of(1, 2)), "broken")) == "s1:2: broken"
