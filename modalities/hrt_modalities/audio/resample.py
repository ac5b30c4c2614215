"""Sound at another rate: whole, or in chunks of any size with the same result.

Shapes: S samples.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor, nn

from hrt_mm.core.extras import needs_extra

WIDTH = 64
"""Zero crossings of the filter on each side. With this and the values below it is the one that resampy calls
``kaiser_best``: flat up to 90% of the band, and 100 dB down past its edge."""
_ROLLOFF, _BETA = 0.9475937167399596, 14.769656459379492


_LARGEST = 2048
"""Samples of the shorter period at most: enough for all rates in use, film and tape among them. Others, such as
16,000 and 15,999 Hz, are taken for near ones (by 0.03% at most): their filters would need gigabytes."""


def periods(rate: int, new_rate: int) -> tuple[int, int]:
    """Samples at both rates after which they come together."""
    large, small = max(rate, new_rate), min(rate, new_rate)
    ratio = Fraction(large, small).limit_denominator(_LARGEST)
    lengths = ratio.numerator, ratio.denominator
    return lengths if rate >= new_rate else lengths[::-1]


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Samples of a sound at another rate."""
    old, new = periods(rate, new_rate)
    return -(-samples * new // old)


def resampled(waveform_S: Tensor, rate: int, new_rate: int) -> Tensor:
    """The same sound with ``new_rate`` samples a second, free of aliases."""
    old, new = periods(rate, new_rate)
    if old == new:
        return waveform_S
    result: Tensor = _filter(old, new)(waveform_S)
    return result


@lru_cache(maxsize=128)
def _filter(old: int, new: int) -> nn.Module:
    with needs_extra("audio"):
        from torchaudio.transforms import Resample

    made: nn.Module = Resample(
        old,
        new,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=WIDTH,
        rolloff=_ROLLOFF,
        beta=_BETA,
        dtype=torch.float32,
    )
    return made


class ResampleStream:
    """Resamples chunks of any size; what comes out, put together, is the whole sound resampled.

    Args:
        rate: samples a second of what comes in.
        new_rate: of what goes out.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = periods(rate, new_rate)
        # In whole periods of both rates, so that a block may start anywhere a period does.
        reach = math.ceil(WIDTH * self.rate / (min(self.rate, self.new_rate) * _ROLLOFF)) + 1
        self._margin = math.ceil(reach / self.rate)
        self._pending = torch.empty(0)
        self._before = 0
        """Periods at the beginning of what is kept that are done, and are there for the filter alone."""

    def feed(self, chunk_S: Tensor) -> Tensor:
        """The new samples that follow from all that has come so far."""
        if self.rate == self.new_rate:
            return chunk_S
        self._pending = torch.cat([self._pending, chunk_S])
        ready = len(self._pending) // self.rate - self._margin - self._before
        if ready <= 0:
            return torch.empty(0)
        result = resampled(self._pending, self.rate, self.new_rate)
        first = self._before * self.new_rate
        result = result[first : first + ready * self.new_rate]
        self._advance(ready)
        return result

    def flush(self) -> Tensor:
        """What is left, at the end of the sound."""
        if self.rate == self.new_rate or not len(self._pending):
            return torch.empty(0)
        result = resampled(self._pending, self.rate, self.new_rate)[self._before * self.new_rate :]
        self._pending, self._before = torch.empty(0), 0
        return result

    def _advance(self, periods: int) -> None:
        done = self._before + periods
        drop = max(0, done - self._margin)
        self._pending = self._pending[drop * self.rate :].clone()
        self._before = done - drop
