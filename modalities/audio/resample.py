"""Sound at another rate: whole, or in chunks of any size with the same result.

Shapes: S samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDTH = 64
"""Zero crossings of the filter on each side. With this and the values below it is the one that resampy calls
``kaiser_best``: flat up to 90% of the band, and 100 dB down past its edge."""
_ROLLOFF, _BETA = 0.9475937167399596, 14.769656459379492


def resampled(waveform_S: Tensor, rate: int, new_rate: int) -> Tensor:
    """The same sound with ``new_rate`` samples a second, ceil(S * new_rate / rate) of them, free of aliases."""
    if rate == new_rate:
        return waveform_S
    from torchaudio import functional

    result: Tensor = functional.resample(
        waveform_S,
        rate,
        new_rate,
        lowpass_filter_width=WIDTH,
        rolloff=_ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=_BETA,
    )
    return result


class ResampleStream:
    """Resamples chunks of any size; what comes out, put together, is the whole sound resampled.

    Args:
        rate: samples a second of what comes in.
        new_rate: of what goes out.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        common = math.gcd(rate, new_rate)
        self.rate, self.new_rate = rate // common, new_rate // common
        # In whole periods of both rates, so that a block may start anywhere a period does.
        reach = math.ceil(WIDTH * self.rate / (min(self.rate, self.new_rate) * _ROLLOFF)) + 1
        self._margin = math.ceil(reach / self.rate)
        self._kept = torch.empty(0)
        self._before = 0
        """Periods at the beginning of what is kept that are done, and are there for the filter alone."""

    def feed(self, chunk_S: Tensor) -> Tensor:
        """The new samples that follow from all that has come so far."""
        if self.rate == self.new_rate:
            return chunk_S
        self._kept = torch.cat([self._kept, chunk_S])
        ready = len(self._kept) // self.rate - self._margin - self._before
        if ready <= 0:
            return torch.empty(0)
        result = resampled(self._kept, self.rate, self.new_rate)
        first = self._before * self.new_rate
        result = result[first : first + ready * self.new_rate]
        self._advance(ready)
        return result

    def flush(self) -> Tensor:
        """What is left, at the end of the sound."""
        if self.rate == self.new_rate or not len(self._kept):
            return torch.empty(0)
        result = resampled(self._kept, self.rate, self.new_rate)[self._before * self.new_rate :]
        self._kept, self._before = torch.empty(0), 0
        return result

    def _advance(self, periods: int) -> None:
        done = self._before + periods
        drop = max(0, done - self._margin)
        self._kept = self._kept[drop * self.rate :].clone()
        self._before = done - drop
