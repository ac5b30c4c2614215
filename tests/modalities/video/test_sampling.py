"""Which frames are read: by time, whatever the rate of the file."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from hrt_modalities.video.readers import FrameIndex
from hrt_modalities.video.readers.orientation import Orientation
from hrt_modalities.video.readers.packets import SeekPlan
from hrt_modalities.video.sampling import AllFrames, DenseSampling, KeyFrames, Uniform


def index(times: list[float], seconds: float, keys: tuple[int, ...] = (0,)) -> FrameIndex:
    result = torch.tensor(times, dtype=torch.float64)
    none = np.zeros(0, np.int32)
    plan = SeekPlan(np.arange(len(result)), none, none, none, np.zeros((0, 2), np.int64), predicted=True)
    return FrameIndex(64, 48, Orientation(), 1.0, False, "h264", "mov", result, keys, seconds, plan, None, 0, False)


STEADY = index([0.04 * number for number in range(50)], 2.0, (0, 12, 24, 36, 48))
UNEVEN = index([0.0, 0.1, 0.2, 1.0, 1.8], 2.0)


def test_all_frames_or_all_at_a_rate() -> None:
    chosen = AllFrames().choose(STEADY, 0.4, 0.8, random=True)
    assert chosen.numbers == tuple(range(10, 20)) and chosen.times[0] == pytest.approx(0) and chosen.seconds == 0.4
    slow = AllFrames(rate=12.5).choose(STEADY, 0.0, 2.0, random=True)
    assert slow.numbers == tuple(range(0, 50, 2)) and slow.times[3] == pytest.approx(0.24)
    # What is on at each time, again and again where nothing new is shown.
    uneven = AllFrames(rate=5).choose(UNEVEN, 0.0, 2.0, random=True)
    assert uneven.numbers == (0, 2, 2, 2, 2, 3, 3, 3, 3, 4)
    fast = AllFrames(rate=100).choose(STEADY, 0.0, 0.08, random=True)
    assert fast.numbers == (0, 0, 0, 0, 1, 1, 1, 1)
    # A part begins with the frame that is on, though that began before it.
    assert AllFrames().choose(UNEVEN, 0.5, 1.5, random=True).numbers == (2, 3)


def test_dense_windows_lie_anywhere_in_training_and_in_the_middle_elsewhere() -> None:
    dense = DenseSampling(type="dense", frames=8, rate=25)
    assert dense.choose(STEADY, 0.0, 2.0, random=False).numbers == tuple(range(21, 29))
    begins = {round(dense.choose(STEADY, 0.0, 2.0, random=True).begin, 3) for _ in range(50)}
    assert len(begins) > 20 and min(begins) >= 0 and max(begins) <= 2.0 - 8 / 25
    short = dense.choose(STEADY, 0.0, 0.2, random=True)
    assert short.numbers == (0, 1, 2, 3, 4)


def test_windows_lie_from_beginning_to_end() -> None:
    three = DenseSampling(type="dense", frames=8, rate=25, windows=3)
    windows = three.spread(STEADY, 0.0, 2.0)
    assert [item.numbers[0] for item in windows] == [0, 21, 42] and {len(item.numbers) for item in windows} == {8}
    assert windows[1] == three.choose(STEADY, 0.0, 2.0, random=False)
    short = three.spread(STEADY, 0.4, 0.6)
    assert {item.numbers for item in short} == {(10, 11, 12, 13, 14)}
    one = DenseSampling(type="dense", frames=8, rate=25)
    assert one.spread(STEADY, 0.0, 2.0) == [one.choose(STEADY, 0.0, 2.0, random=False)]


def test_uniform_takes_one_of_each_piece() -> None:
    uniform = Uniform(type="uniform", frames=5)
    assert uniform.choose(STEADY, 0.0, 2.0, random=False).numbers == (5, 15, 25, 35, 45)
    for _ in range(20):
        numbers = uniform.choose(STEADY, 0.0, 2.0, random=True).numbers
        assert all(10 * position <= number < 10 * position + 10 for position, number in enumerate(numbers))
    assert len(uniform.choose(index([0.0], 0.04), 0.0, 0.04, random=True).numbers) == 5


def test_key_frames() -> None:
    assert KeyFrames(type="keyframes").choose(STEADY, 0.0, 2.0, random=True).numbers == (0, 12, 24, 36, 48)
    assert KeyFrames(type="keyframes").choose(STEADY, 0.5, 1.0, random=True).numbers == (12, 24)
    assert KeyFrames(type="keyframes", most=2).choose(STEADY, 0.0, 2.0, random=True).numbers == (0, 24)
    assert KeyFrames(type="keyframes").choose(STEADY, 0.6, 0.7, random=True).numbers == (15,)


@pytest.mark.parametrize(
    "sampling",
    [
        AllFrames(),
        AllFrames(rate=7),
        DenseSampling(type="dense", frames=9, rate=30),
        Uniform(type="uniform", frames=16),
    ],
    ids=str,
)
@pytest.mark.parametrize("part", [(0.0, 2.0), (0.13, 0.14), (1.95, 2.0)], ids=str)
@pytest.mark.parametrize("random", [True, False])
def test_times_ascend_within_the_window(sampling: Any, part: tuple[float, float], random: bool) -> None:
    for file in (STEADY, UNEVEN):
        chosen = sampling.choose(file, *part, random=random)
        assert len(chosen.numbers) == len(chosen.times) > 0
        assert all(first < second for first, second in pairwise(chosen.times))
        assert chosen.times[0] >= 0 and chosen.times[-1] < chosen.seconds
        assert all(first <= second for first, second in pairwise(chosen.numbers))
