"""The input of the audio tokenizer: a waveform with boundaries and labels.

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
"""Range of sampling rates."""

SLACK = 0.1
"""Seconds by which an alignment may exceed its sound, because many are rounded up."""

MAX_LEVEL = 1000.0
"""Limit of sample values, 60 dB above full scale. Larger ones are integers stored as floats."""


@dataclass(frozen=True)
class Hidden:
    """A masked part of the features (SpecAugment): the intersection of an interval of time and a range of bands.

    Args:
        seconds: start and end.
        bands: first and last, as fractions of all bands.
    """

    seconds: tuple[float, float] = (0.0, float("inf"))
    bands: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Pace:
    """A piecewise linear map from times of the waveform to times of playback, without change of pitch.

    Args:
        source: edges of the pieces in seconds of the waveform, ascending, from its beginning to its end.
        heard: playback times of these edges.
    """

    source: tuple[float, ...]
    heard: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Duration of the playback."""
        return self.heard[-1]

    def heard_at(self, times: Sequence[float]) -> tuple[float, ...]:
        """Playback times of times of the waveform; after its end, with the same distance to the end."""
        after = [max(0.0, time - self.source[-1]) for time in times]
        heard_times = np.interp(times, self.source, self.heard).tolist()
        return tuple(time + more for time, more in zip(heard_times, after, strict=True))

    def source_at(self, times: np.ndarray) -> np.ndarray:
        """Times of the waveform at playback times."""
        return np.interp(times, self.heard, self.source)


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound with one channel.

    Args:
        waveform_S: float32, full scale at -1 and 1.
        rate: samples per second.
        boundaries: by name, start times of groups such as words and phonemes in seconds, ascending.
        labels: by name, the labels of these groups, if known; for reports.
        hidden: parts of the features that augmentation masks.
        warp: factor by which augmentation raises all frequencies of the features, as a shorter vocal tract does.
        pace: time warping by augmentation; all other times are those of the waveform.
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
        """Duration of the waveform."""
        return len(self.waveform_S) / self.rate

    @property
    def seconds_heard(self) -> float:
        """Duration of the playback at its pace."""
        return self.seconds if self.pace is None else self.pace.seconds

    def heard_at(self, times: Sequence[float]) -> Sequence[float]:
        """Playback times of times of the waveform."""
        return times if self.pace is None else self.pace.heard_at(times)


def check_audio(value: Any, name: str) -> Audio:
    """A sample's value, checked.

    Args:
        value: an :class:`Audio`.
        name: of the sample, for messages.

    Raises:
        BadSample: it is none, has no samples, several channels, values that are not finite, or boundaries that are out
            of order or out of range.
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
        BadSample: they are not float32 with one channel, empty, not finite, or far above full scale.
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
    # max() returns NaN if there is one.
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
