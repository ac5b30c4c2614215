from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hrt_modalities.audio.resample import ResampleStream, periods, resampled, resampled_length


def tone(hertz: float, rate: int, seconds: float = 0.5) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(rate * seconds), dtype=torch.float64) / rate).float()


def level(wave: Tensor) -> float:
    """Of the middle, where the filter does not meet the ends, in decibels."""
    quarter = len(wave) // 4
    return 20 * math.log10(float(wave[quarter:-quarter].square().mean().sqrt()) + 1e-12)


@pytest.mark.parametrize(("rate", "new"), [(44100, 16000), (48000, 16000), (192000, 16000), (22050, 8000)])
def test_a_tone_above_the_new_band_is_gone_and_one_below_stays(rate: int, new: int) -> None:
    assert level(resampled(tone(new * 0.55, rate), rate, new)) < -80
    below = new * 0.42
    kept = resampled(tone(below, rate), rate, new)
    quarter = len(kept) // 4
    assert (kept - tone(below, new)[: len(kept)])[quarter:-quarter].abs().max() < 1e-3


@pytest.mark.parametrize(("rate", "new"), [(8000, 16000), (11025, 16000), (44100, 16000), (16000, 44100)])
def test_lengths_are_rounded_up(rate: int, new: int) -> None:
    for length in (1, 2, 999, 1000):
        assert len(resampled(torch.zeros(length), rate, new)) == math.ceil(length * new / rate)


@pytest.mark.parametrize(("rate", "new"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 16000)])
@pytest.mark.parametrize("chunk", [1, 160, 977, 30000])
def test_a_stream_gives_the_whole(rate: int, new: int, chunk: int) -> None:
    wave = torch.randn(3000 if chunk == 1 else 20011)
    stream = ResampleStream(rate, new)
    parts = [stream.feed(piece) for piece in wave.split(chunk)]
    together = torch.cat([*parts, stream.flush()])
    whole = resampled(wave, rate, new)
    assert together.shape == whole.shape
    assert torch.allclose(together, whole, atol=1e-5)


def test_odd_rates_need_no_huge_filter() -> None:
    for rate, new in [(44101, 16000), (22254, 16000), (1009, 16000), (16000, 15991), (767_999, 16000), (16000, 15999)]:
        old, fresh = periods(rate, new)
        assert max(old, fresh) < 2100 * max(rate, new) / min(rate, new)
        assert abs(old / fresh / (rate / new) - 1) < 2.5e-4
        wave = tone(100.0, rate, 0.1)
        result = resampled(wave, rate, new)
        assert len(result) == resampled_length(len(wave), rate, new)
        quarter = len(result) // 4
        assert (result - tone(100.0, new, 1.0)[: len(result)])[quarter:-quarter].abs().max() < 2e-2
    for rate in (8000, 11025, 22050, 44056, 47952, 32000, 44100, 48000, 96000, 192000):
        old, fresh = periods(rate, 16000)
        assert old * 16000 == fresh * rate


def test_a_stream_keeps_little() -> None:
    stream = ResampleStream(44100, 16000)
    for _ in range(50):
        stream.feed(torch.randn(4410))
        assert len(stream._pending) < 4410 + 3 * 441


@pytest.mark.parametrize(
    ("rate", "new"), [(44100, 16000), (48000, 16000), (192000, 16000), (8000, 16000), (16000, 22050), (11025, 8000)]
)
def test_it_is_as_good_as_the_exact_resampling_of_a_periodic_sound(rate: int, new: int) -> None:
    """Fourier's series, which scipy takes, is exact for sound that repeats and has nothing above the band."""
    signal = pytest.importorskip("scipy.signal")
    seconds = 1 if rate % 25 or new % 25 else 0.2
    length = round(rate * seconds)
    spectrum = torch.randn(length // 2 + 1, dtype=torch.complex128)
    hertz = torch.linspace(0, rate / 2, len(spectrum))
    spectrum[hertz > 0.42 * min(rate, new)] = 0
    wave = torch.fft.irfft(spectrum, length)
    wave /= wave.std()
    exact = torch.from_numpy(signal.resample(wave.numpy(), round(new * seconds)))
    # Three periods: the middle one does not meet the ends.
    result = resampled(wave.repeat(3).float(), rate, new).double()[len(exact) : 2 * len(exact)]
    error = 10 * math.log10(float((result - exact).square().mean() / exact.square().mean()))
    assert error < -95, f"{error:.1f} dB"
