"""Selection of the frames of a video: all at a rate, uniform, a dense window, or the key frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from hrt_mm.core.component import Component

from .readers import FrameIndex


@dataclass(frozen=True)
class Chosen:
    """Selected frames.

    Args:
        numbers: of the frames, in order of time.
        times: of the frames in seconds from ``begin``, ascending.
        begin: start of the window in seconds of the file.
        seconds: duration of the window.
    """

    numbers: tuple[int, ...]
    times: tuple[float, ...]
    begin: float
    seconds: float


class AllFrames(Component):
    """All frames, or all at a rate."""

    type: Literal["all"] = "all"
    rate: PositiveFloat | None = None
    """Frames per second, sampled by time; every frame of the file when absent."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        if self.rate is not None:
            return _at_rate(index, self.rate, begin, end - begin, max(1, round((end - begin) * self.rate)))
        first, last = index.at(begin), _last(index, begin, end)
        return _at_own_times(index, tuple(range(first, last + 1)), begin, end)


class DenseSampling(Component):
    """A window of consecutive frames: at a random position in training, otherwise in the middle, or several."""

    type: Literal["dense"]
    frames: PositiveInt
    """Number of frames; fewer if the part is shorter."""
    rate: PositiveFloat
    """Frames per second, sampled by time."""
    windows: PositiveInt = 1
    """Number of windows outside of training: one in the middle, or several from the beginning to the end. A classifier
    averages over them; other tasks take one."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        return self._window(index, begin, end, float(torch.rand(())) if random else 0.5)

    def spread(self, index: FrameIndex, begin: float, end: float) -> list[Chosen]:
        """All windows of a part of a file, which are equal if the part is shorter than one."""
        fractions = [number / (self.windows - 1) for number in range(self.windows)] if self.windows > 1 else [0.5]
        return [self._window(index, begin, end, fraction) for fraction in fractions]

    def _window(self, index: FrameIndex, begin: float, end: float, fraction: float) -> Chosen:
        seconds = min(self.frames / self.rate, end - begin)
        start = begin + fraction * (end - begin - seconds)
        return _at_rate(index, self.rate, start, seconds, max(1, min(self.frames, round(seconds * self.rate))))


class Uniform(Component):
    """Frames evenly spaced over a video: one in each segment of equal length, at a random position in training."""

    type: Literal["uniform"]
    frames: PositiveInt
    """Number of frames."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        piece = (end - begin) / self.frames
        offsets = torch.rand(self.frames).tolist() if random else [0.5] * self.frames
        times = tuple((number + offset) * piece for number, offset in enumerate(offsets))
        # Two equal times, at a border between segments, are very unlikely but would break the order.
        times = times if len(set(times)) == len(times) else tuple((n + 0.5) * piece for n in range(self.frames))
        return Chosen(tuple(index.at(begin + time) for time in times), times, begin, end - begin)


class KeyFrames(Component):
    """Key frames: fast to decode and often at cuts, but without motion between them."""

    type: Literal["keyframes"]
    most: PositiveInt = 64
    """Limit of their number; beyond it, evenly spaced ones are taken."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file; without key frames, the first frame."""
        first, last = index.at(begin), _last(index, begin, end)
        keys = [key for key in index.keys if first <= key <= last] or [first]
        if len(keys) > self.most:
            keys = [keys[number * len(keys) // self.most] for number in range(self.most)]
        return _at_own_times(index, tuple(keys), begin, end)


Sampling = Annotated[AllFrames | DenseSampling | Uniform | KeyFrames, Field(discriminator="type")]


def _at_rate(index: FrameIndex, rate: float, begin: float, seconds: float, count: int) -> Chosen:
    times = tuple(number / rate for number in range(count))
    return Chosen(tuple(index.at(begin + time) for time in times), times, begin, max(seconds, count / rate))


def _at_own_times(index: FrameIndex, numbers: tuple[int, ...], begin: float, end: float) -> Chosen:
    # The first frame may begin before the part; its time is then the start of the part.
    times = tuple(max(0.0, float(index.times_N[number]) - begin) for number in numbers)
    return Chosen(numbers, times, begin, end - begin)


def _last(index: FrameIndex, begin: float, end: float) -> int:
    """The last frame that begins before the end of a part."""
    position = int(torch.searchsorted(index.times_N, end - 1e-4)) - 1
    return max(position, index.at(begin))
