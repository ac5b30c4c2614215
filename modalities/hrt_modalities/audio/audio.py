"""The input of the audio tokenizer: a waveform with its known boundaries and labels.

Shapes: S samples of sound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Samples a second that a recording may have."""

SLACK = 0.1
"""Seconds by which an alignment may lead past the end of its sound: many are rounded up to whole hundredths."""

MAX_LEVEL = 1000.0
"""The largest sample: 60 dB over full scale. Beyond it are integers that were written as floats."""


@dataclass(frozen=True)
class Hidden:
    """A part of the features that is hidden (SpecAugment): a stretch of time, a range of the bands, or where both meet.

    Args:
        seconds: start and end.
        bands: first and last, as parts of all bands from 0 to 1.
    """

    seconds: tuple[float, float] = (0.0, float("inf"))
    bands: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Pace:
    """How fast a sound goes by from place to place: pieces at a pace of their own, whose pitch stays.

    Args:
        source: seconds of the waveform at which pieces meet, ascending, with those where it begins and ends.
        heard: seconds at which these are heard.
    """

    source: tuple[float, ...]
    heard: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """How long the sound lasts as it is heard."""
        return self.heard[-1]

    def heard_at(self, times: Sequence[float]) -> tuple[float, ...]:
        """When times of the waveform are heard; what lies after its end, so long after the end."""
        after = [max(0.0, time - self.source[-1]) for time in times]
        heard_times = np.interp(times, self.source, self.heard).tolist()
        return tuple(time + more for time, more in zip(heard_times, after, strict=True))

    def source_at(self, times: np.ndarray) -> np.ndarray:
        """What is heard at some times, in seconds of the waveform."""
        return np.interp(times, self.heard, self.source)


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound of one channel.

    Args:
        waveform_S: float32, full scale at -1 and 1.
        rate: samples a second.
        boundaries: by name, the seconds at which groups start, such as words and phonemes, ascending.
        labels: by name, what these groups are, where that is known; for pictures.
        hidden: parts of the features that augmentation hides.
        warp: factor by which augmentation moves the bands of the features up, as a shorter vocal tract does.
        pace: how augmentation lets it go by; all other times are those of the waveform.
    """

    waveform_S: Tensor
    rate: int
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hidden: tuple[Hidden, ...] = ()
    warp: float = 1.0
    pace: Pace | None = None

    @property
    def seconds(self) -> float:
        """How long its waveform lasts."""
        return len(self.waveform_S) / self.rate

    @property
    def seconds_heard(self) -> float:
        """How long it lasts at its pace."""
        return self.seconds if self.pace is None else self.pace.seconds

    def heard_at(self, times: Sequence[float]) -> Sequence[float]:
        """When times of the waveform are heard."""
        return times if self.pace is None else self.pace.heard_at(times)


def check_audio(value: Any, name: str) -> Audio:
    """A sample's value, checked.

    Args:
        value: an :class:`Audio`.
        name: of the sample, for messages.

    Raises:
        BadSample: it is none, has no samples, other than one channel, values that are not finite, or boundaries that
            are out of order or lie outside.
    """
    if not isinstance(value, Audio):
        raise BadSample(name, f"is {type(value).__name__}, not sound; give Audio(waveform, rate)")
    check_waveform(value.waveform_S, name)
    if not MIN_RATE <= value.rate <= MAX_RATE:
        raise BadSample(name, f"has {value.rate} samples a second; rates go from {MIN_RATE} to {MAX_RATE}")
    for boundary, starts in value.boundaries.items():
        check_starts(starts, value.seconds, boundary, name)
    return value


def check_waveform(waveform_S: Tensor, name: str) -> None:
    """Checks samples.

    Raises:
        BadSample: they are no float32 of one channel, none at all, not finite, or far over full scale.
    """
    if not isinstance(waveform_S, Tensor) or waveform_S.ndim != 1 or waveform_S.dtype != torch.float32:
        description = (
            f"{waveform_S.dtype} of shape {tuple(waveform_S.shape)}"
            if isinstance(waveform_S, Tensor)
            else type(waveform_S).__name__
        )
        raise BadSample(
            name, f"has a waveform of {description}; expected a float32 tensor (samples,), channels averaged"
        )
    if not len(waveform_S):
        raise BadSample(name, "has no samples; remove it, or record it again")
    # NaN is the largest of all to max().
    loudest = float(waveform_S.abs().max())
    if not math.isfinite(loudest):
        index = int((~waveform_S.isfinite()).nonzero()[0])
        raise BadSample(name, f"has {float(waveform_S[index])} at sample {index}; mend or remove it")
    if loudest > MAX_LEVEL:
        raise BadSample(
            name, f"has samples up to {loudest:g}, but full scale is 1; divide integers by their largest value"
        )


def check_starts(
    starts: Sequence[float], seconds: float, boundary: str, name: str, *, what: str = "sound", slack: float = SLACK
) -> None:
    """Checks the start times of groups.

    Args:
        starts: in seconds.
        seconds: duration of the sample.
        boundary: the name of the groups, for messages.
        name: of the sample, for messages.
        what: what the sample is, for messages.
        slack: seconds by which the last time may exceed the duration.

    Raises:
        BadSample: the times are not ascending, negative, or past the end of the sample.
    """
    for index, start in enumerate(starts):
        if not start >= 0:
            raise BadSample(name, f"boundary {boundary!r} starts at {start} s (number {index}); times are 0 or later")
    for first, second in pairwise(starts):
        if second < first:
            raise BadSample(name, f"boundary {boundary!r} starts at {second:.4f} s after {first:.4f} s; sort the times")
    if len(starts) and starts[-1] > seconds + slack:
        raise BadSample(
            name,
            f"boundary {boundary!r} starts at {starts[-1]:.4f} s, but the {what} lasts {seconds:.4f} s; are these the "
            "times of another file?",
        )
