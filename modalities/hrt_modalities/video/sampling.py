"""Which frames of a video are read: all at a rate, some spread evenly, a dense window, or the key frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from hrt_mm.core.component import Component

from .readers import FrameIndex


@dataclass(frozen=True)
class Chosen:
    """Frames to be read.

    Args:
        numbers: which, in time.
        times: seconds from ``begin`` that each stands for, ascending.
        begin: seconds of the file at which the window begins.
        seconds: how long it is.
    """

    numbers: tuple[int, ...]
    times: tuple[float, ...]
    begin: float
    seconds: float


class AllFrames(Component):
    """All of a video."""

    type: Literal["all"] = "all"
    rate: PositiveFloat | None = None
    """Frames a second that are taken, by their times: what is shown then. Each frame that there is when absent."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        if self.rate is not None:
            return _at_rate(index, self.rate, begin, end - begin, max(1, round((end - begin) * self.rate)))
        first, last = index.at(begin), _last(index, begin, end)
        return _own(index, tuple(range(first, last + 1)), begin, end)


class DenseSampling(Component):
    """A window of neighbouring frames: at a random place in training, in the middle elsewhere, or several there."""

    type: Literal["dense"]
    frames: PositiveInt
    """How many; a shorter part gives what it has."""
    rate: PositiveFloat
    """Frames a second, taken by their times."""
    windows: PositiveInt = 1
    """Windows of each video outside of training: one in the middle, or several from its beginning to its end. A
    classifier takes the mean of what it finds in them; other tasks take one."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        return self._window(index, begin, end, float(torch.rand(())) if random else 0.5)

    def spread(self, index: FrameIndex, begin: float, end: float) -> list[Chosen]:
        """All windows of a part of a file; in a part that is shorter than one they are alike."""
        fractions = [number / (self.windows - 1) for number in range(self.windows)] if self.windows > 1 else [0.5]
        return [self._window(index, begin, end, fraction) for fraction in fractions]

    def _window(self, index: FrameIndex, begin: float, end: float, fraction: float) -> Chosen:
        seconds = min(self.frames / self.rate, end - begin)
        start = begin + fraction * (end - begin - seconds)
        return _at_rate(index, self.rate, start, seconds, max(1, min(self.frames, round(seconds * self.rate))))


class Uniform(Component):
    """Frames spread over all of a video: one of each piece of equal length, at a random place in it in training."""

    type: Literal["uniform"]
    frames: PositiveInt
    """How many."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file."""
        piece = (end - begin) / self.frames
        offsets = torch.rand(self.frames).tolist() if random else [0.5] * self.frames
        times = tuple((number + offset) * piece for number, offset in enumerate(offsets))
        # A draw of exactly the border twice over is all but impossible, and would break the order.
        times = times if len(set(times)) == len(times) else tuple((n + 0.5) * piece for n in range(self.frames))
        return Chosen(tuple(index.at(begin + time) for time in times), times, begin, end - begin)


class KeyFrames(Component):
    """Frames that the file holds whole: fast, and where encoders put cuts, but nothing moves from one to the next."""

    type: Literal["keyframes"]
    most: PositiveInt = 64
    """The largest number; of more, some spread evenly are taken."""

    def choose(self, index: FrameIndex, begin: float, end: float, *, random: bool) -> Chosen:
        """The frames of a part of a file; the frame that is on where it has no key frame."""
        first, last = index.at(begin), _last(index, begin, end)
        keys = [key for key in index.keys if first <= key <= last] or [first]
        if len(keys) > self.most:
            keys = [keys[number * len(keys) // self.most] for number in range(self.most)]
        return _own(index, tuple(keys), begin, end)


Sampling = Annotated[AllFrames | DenseSampling | Uniform | KeyFrames, Field(discriminator="type")]


def _at_rate(index: FrameIndex, rate: float, begin: float, seconds: float, count: int) -> Chosen:
    times = tuple(number / rate for number in range(count))
    return Chosen(tuple(index.at(begin + time) for time in times), times, begin, max(seconds, count / rate))


def _own(index: FrameIndex, numbers: tuple[int, ...], begin: float, end: float) -> Chosen:
    # The frame that is on where the part begins stands for it from there.
    times = tuple(max(0.0, float(index.times_N[number]) - begin) for number in numbers)
    return Chosen(numbers, times, begin, end - begin)


def _last(index: FrameIndex, begin: float, end: float) -> int:
    """The last frame that begins before the end of a part."""
    position = int(torch.searchsorted(index.times_N, end - 1e-4)) - 1
    return max(position, index.at(begin))
