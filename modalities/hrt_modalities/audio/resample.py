"""Resampling: of whole sounds, or in chunks of any size with the same result.

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
"""Zero crossings of the filter on each side. With the values below, the filter is resampy's ``kaiser_best``: flat up to
90% of the band, and 100 dB down beyond its edge."""
_ROLLOFF, _BETA = 0.9475937167399596, 14.769656459379492
_LARGEST = 2048
"""Limit of the shorter period in samples, which suffices for all common rates. Others, such as 16,000 to 15,999 Hz, are
approximated within 0.03%, because their filters would need gigabytes."""


def periods(rate: int, new_rate: int) -> tuple[int, int]:
    """Numbers of samples at both rates that last equally long: the period of the resampling filter."""
    large, small = max(rate, new_rate), min(rate, new_rate)
    ratio = Fraction(large, small).limit_denominator(_LARGEST)
    lengths = ratio.numerator, ratio.denominator
    return lengths if rate >= new_rate else lengths[::-1]


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Number of samples after resampling."""
    old, new = periods(rate, new_rate)
    return -(-samples * new // old)


def resampled(waveform_S: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resamples a sound, without aliasing."""
    old, new = periods(rate, new_rate)
    if old == new:
        return waveform_S
    result: Tensor = _filter(old, new)(waveform_S)
    return result


@lru_cache(maxsize=128)
def _filter(old: int, new: int) -> nn.Module:
    with needs_extra("audio"):
        from torchaudio.transforms import Resample

    module: nn.Module = Resample(
        old,
        new,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=WIDTH,
        rolloff=_ROLLOFF,
        beta=_BETA,
        dtype=torch.float32,
    )
    return module


class ResampleStream:
    """Resamples chunks of any size. The concatenated output equals the resampled whole.

    Args:
        rate: of the input, in samples per second.
        new_rate: of the output.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate, self.new_rate = periods(rate, new_rate)
        # The filter's reach in whole periods: a block may start at any period.
        reach = math.ceil(WIDTH * self.rate / (min(self.rate, self.new_rate) * _ROLLOFF)) + 1
        self._margin = math.ceil(reach / self.rate)
        self._pending = torch.empty(0)
        self._before = 0
        """Periods at the beginning of the pending samples that are finished, and remain as context of the filter."""

    def feed(self, chunk_S: Tensor) -> Tensor:
        """The output that the chunk completes."""
        if self.rate == self.new_rate:
            return chunk_S
        self._pending = torch.cat([self._pending, chunk_S])
        ready = len(self._pending) // self.rate - self._margin - self._before
        if ready <= 0:
            return torch.empty(0)
        result = resampled(self._pending, self.rate, self.new_rate)
        first = self._before * self.new_rate
        result = result[first : first + ready * self.new_rate]
        finished = self._before + ready
        drop = max(0, finished - self._margin)
        self._pending = self._pending[drop * self.rate :].clone()
        self._before = finished - drop
        return result

    def flush(self) -> Tensor:
        """The rest of the output, at the end of the sound."""
        if self.rate == self.new_rate or not len(self._pending):
            return torch.empty(0)
        result = resampled(self._pending, self.rate, self.new_rate)[self._before * self.new_rate :]
        self._pending, self._before = torch.empty(0), 0
        return result
