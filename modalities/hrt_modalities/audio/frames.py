"""Frames of sound: log-mel bands or raw samples, of whole waveforms or of chunks of any size with the same result.

Frame t covers the samples of its hop. Its window is centred on them, so its lookahead is (window - hop) / 2 samples.
The end of a sound is padded with zeros to a whole token.

Shapes: S samples, T frames, F features of a frame, W samples of a window, N samples of the transform, K its bins.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from hrt_mm.core.extras import needs_extra

FLOOR = 1e-8
"""Power that is added before the logarithm, 80 dB below full scale. Quieter sound is silence."""
_BLOCK = 4096
"""Frames that are transformed at once, which bounds the memory of long sounds."""
_SCAN = 128
"""Frames of the running mean that are computed in one matrix product."""


@dataclass(frozen=True)
class Framing:
    """The division of samples into frames.

    Args:
        rate: samples per second.
        hop: distance of frames in samples.
        window: samples of a window, at least ``hop``.
    """

    rate: int
    hop: int
    window: int

    @property
    def before(self) -> int:
        """Samples of a window before its hop."""
        return (self.window - self.hop) // 2

    @property
    def ahead(self) -> int:
        """Samples of a window after its hop."""
        return self.window - self.hop - self.before

    def count(self, samples: int) -> int:
        """Number of frames of a sound, including a padded one."""
        return -(-samples // self.hop)

    def windows(self, waveform_S: Tensor, frames: int) -> Tensor:
        """(T, W) windows of the frames of a whole sound."""
        padded = torch.zeros((frames - 1) * self.hop + self.window)
        length = min(len(waveform_S), len(padded) - self.before)
        padded[self.before : self.before + length] = waveform_S[:length]
        return padded.unfold(0, self.window, self.hop)

    def windows_at(self, waveform_S: Tensor, starts_T: Tensor) -> Tensor:
        """(T, W) windows of frames whose hops start at given samples from 0 to S."""
        padded = functional.pad(waveform_S, (self.before, self.window))
        return padded.unfold(0, self.window, 1)[starts_T]


class Features(ABC):
    """Features of frames, each computed from its window alone."""

    framing: Framing
    width: int
    """Features of a frame."""

    @abstractmethod
    def __call__(self, windows_TW: Tensor, warp: float = 1.0) -> Tensor:
        """(T, W) to (T, F), with all frequencies multiplied by ``warp``."""


class Waveform(Features):
    """The samples of the window themselves, divided by ``scale``."""

    def __init__(self, framing: Framing, scale: float) -> None:
        self.framing, self.scale, self.width = framing, scale, framing.window

    def __call__(self, windows_TW: Tensor, warp: float = 1.0) -> Tensor:
        assert warp == 1, "samples have no bands"
        return windows_TW / self.scale


class LogMel(Features):
    """Logarithm of the mean power in mel bands.

    The power of white noise in each band is its variance, whatever the window, the rate and the number of bands.
    Therefore one mean and one deviation normalize all settings.

    Args:
        framing: of the sound.
        mels: number of bands.
        lowest: lower edge of the bands in hertz.
        highest: upper edge of the bands in hertz.
        mean: is subtracted.
        deviation: divides the result.
    """

    def __init__(
        self, framing: Framing, mels: int, lowest: float, highest: float, mean: float, deviation: float
    ) -> None:
        self.framing, self.width = framing, mels
        self.lowest, self.highest = lowest, highest
        self.mean, self.deviation = mean, deviation
        self._warped: dict[float, Tensor] = {}

    @cached_property
    def _filters(self) -> tuple[int, Tensor, Tensor]:
        """Size of the transform, its window, and (K, F) weights that sum to 1 in each band."""
        with needs_extra("audio"):
            from torchaudio.functional import melscale_fbanks

        size = 1 << (self.framing.window - 1).bit_length()
        # Slaney's scale is linear up to 1 kHz, where bands are narrowest. Each must contain a bin.
        scale = _slaney(self.highest) - _slaney(self.lowest)
        narrowest = scale / (self.width + 1) * (200 / 3)
        while self.framing.rate / size > narrowest:
            size *= 2
        bands_KF: Tensor = melscale_fbanks(
            size // 2 + 1, self.lowest, self.highest, self.width, self.framing.rate, mel_scale="slaney"
        )
        window_W = torch.hann_window(self.framing.window)
        bands_KF = bands_KF / bands_KF.sum(0) / window_W.square().sum()
        return size, window_W, bands_KF

    def __call__(self, windows_TW: Tensor, warp: float = 1.0) -> Tensor:
        size, window_W, _ = self._filters
        bands_KF = self._bands(warp)
        x_TF = torch.empty(len(windows_TW), self.width)
        for first in range(0, len(windows_TW), _BLOCK):
            spectrum_TK = torch.fft.rfft(windows_TW[first : first + _BLOCK] * window_W, size)
            power_TK = spectrum_TK.real.square() + spectrum_TK.imag.square()
            torch.mm(power_TK, bands_KF, out=x_TF[first : first + _BLOCK])
        return x_TF.add_(FLOOR).log_().sub_(self.mean).div_(self.deviation)

    def _bands(self, warp: float) -> Tensor:
        """(K, F) weights for a vocal tract by which all frequencies are multiplied by ``warp``.

        The map is piecewise linear: the last eighth of the bins is stretched to reach the highest frequency.
        """
        bands_KF = self._filters[2]
        if warp == 1:
            return bands_KF
        if warp not in self._warped:
            last = len(bands_KF) - 1
            position_K = torch.arange(last + 1, dtype=torch.float32)
            knee = 7 / 8 * last * min(1.0, 1 / warp)
            high_K = last - (last - knee * warp) / (last - knee) * (last - position_K)
            from_K = torch.where(position_K <= knee, position_K * warp, high_K).clamp(0, last)
            low_K = from_K.long().clamp(max=last - 1)
            warped_KF = torch.lerp(bands_KF[low_K], bands_KF[low_K + 1], (from_K - low_K)[:, None])
            self._warped[warp] = warped_KF * (bands_KF.sum(0) / warped_KF.sum(0).clamp(min=1e-12))
        return self._warped[warp]


class RunningMean:
    """Subtracts an exponential moving average of the past, which starts at 0.

    Args:
        frames: time constant, after which the weight of a frame is 1/e.
    """

    def __init__(self, frames: float) -> None:
        self.decay = math.exp(-1 / frames)
        index = torch.arange(_SCAN, dtype=torch.float64)
        steps = index[:, None] - index
        # Weights of a block of frames: row t is (1 - d) d^(t - s) for s <= t. In float64, so that chunks equal the
        # whole: models may amplify differences a hundredfold.
        self._weights = torch.where(steps >= 0, (1 - self.decay) * self.decay ** steps.clamp(min=0), 0.0)
        self._fading = (self.decay ** (index + 1))[:, None]

    def __call__(self, x_TF: Tensor, mean_F: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The features minus the mean, and the last mean in float64, for the frames that follow.

        Args:
            x_TF: features.
            mean_F: the mean before them; 0 when ``None``.
        """
        mean_F = torch.zeros(x_TF.shape[1], dtype=torch.float64) if mean_F is None else mean_F
        result = torch.empty_like(x_TF)
        for first in range(0, len(x_TF), _SCAN):
            block = x_TF[first : first + _SCAN].double()
            size = len(block)
            means_TF = self._weights[:size, :size] @ block + self._fading[:size] * mean_F
            result[first : first + size] = block - means_TF
            mean_F = means_TF[-1]
        return result, mean_F


class FrameStream:
    """Frames of a sound that arrives in chunks of any size; together they equal those of the whole.

    Its memory is less than a window and a token, whatever the length of the sound.

    Args:
        features: of windows.
        running: subtracts the running mean, if any.
        stack: frames of a token; the end of the sound is padded to a whole one.
    """

    def __init__(self, features: Features, running: RunningMean | None = None, stack: int = 1) -> None:
        self.features, self.running, self.stack = features, running, stack
        self._pending = torch.zeros(features.framing.before)
        self._mean: Tensor | None = None
        self._samples = 0
        self._frames = 0

    def feed(self, chunk_S: Tensor) -> Tensor:
        """(T, F) frames that new samples complete, at the rate of the features."""
        framing = self.features.framing
        self._pending = torch.cat([self._pending, chunk_S])
        self._samples += len(chunk_S)
        ready = max(0, (len(self._pending) - framing.window) // framing.hop + 1)
        return self._take(ready)

    def flush(self) -> Tensor:
        """The remaining frames, at the end of the sound."""
        framing = self.features.framing
        token = framing.hop * self.stack
        ready = -(-self._samples // token) * self.stack - self._frames
        missing = max(0, (ready - 1) * framing.hop + framing.window - len(self._pending)) if ready else 0
        self._pending = torch.cat([self._pending, torch.zeros(missing)])
        return self._take(ready)

    def _take(self, ready: int) -> Tensor:
        framing = self.features.framing
        if not ready:
            return torch.empty(0, self.features.width)
        x_TF = self.features(self._pending.unfold(0, framing.window, framing.hop)[:ready])
        if self.running is not None:
            x_TF, self._mean = self.running(x_TF, self._mean)
        self._pending = self._pending[ready * framing.hop :].clone()
        self._frames += ready
        return x_TF


def _slaney(hertz: float) -> float:
    """Slaney's mel scale: linear up to 1 kHz, logarithmic above."""
    return hertz / (200 / 3) if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)
