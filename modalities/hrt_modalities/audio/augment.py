"""Augmentation of training sounds: speed, pace, silence, gain, microphones, rooms, noise and SpecAugment.

Random numbers come from torch's global generator.

Shapes: S samples, N intervals.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.folders import walk

from ..common.augment import Probability, RangedComponent
from .audio import Audio, Hidden, Pace
from .files import SUFFIXES, read_audio, read_header
from .resample import resampled

log = logging.getLogger(__name__)

Transform = Callable[[Audio], Audio]
_STRETCH_S = 0.01
"""Seconds over which power is measured for trimming."""


class _SoundAugmentation(RangedComponent):
    """A transform of sounds, which is applied always or with the probability ``p``."""

    # Transforms are bound methods and partial functions: workers that are not forked get them by pickle.
    def build(self) -> Transform:
        """The transform."""
        p = getattr(self, "p", None)
        return self.apply if p is None else partial(_sometimes, p, self.apply)

    @abstractmethod
    def apply(self, audio: Audio) -> Audio:
        """The transformed sound."""
        raise NotImplementedError(type(self))


def _sometimes(p: float, transform: Transform, audio: Audio) -> Audio:
    return transform(audio) if float(torch.rand(())) < p else audio


class Speed(_SoundAugmentation):
    """Changes speed and pitch together by resampling; boundaries move accordingly."""

    ranges = ("factor",)

    type: Literal["speed"]
    factor: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.9, 1.1)
    """Least and largest factor. It is drawn in whole hundredths."""

    def apply(self, audio: Audio) -> Audio:
        """The resampled sound."""
        percent = _percent(self.factor)
        if percent == 100:
            return audio
        factor = percent / 100
        return replace(
            audio,
            waveform_S=resampled(audio.waveform_S, percent, 100),
            boundaries={name: tuple(start / factor for start in starts) for name, starts in audio.boundaries.items()},
            hidden=tuple(
                replace(part, seconds=(part.seconds[0] / factor, part.seconds[1] / factor)) for part in audio.hidden
            ),
        )


class VocalTract(_SoundAugmentation):
    """A shorter or longer vocal tract: resonances move, pitch and pace stay (VTLP; Jaitly and Hinton, 2013)."""

    ranges = ("factor",)

    type: Literal["vocal_tract"]
    factor: tuple[Annotated[float, Field(ge=0.5)], Annotated[float, Field(le=2)]] = (0.9, 1.1)
    """Least and largest factor. It is drawn in whole hundredths."""

    def apply(self, audio: Audio) -> Audio:
        """The sound with a factor by which the tokenizer warps its bands."""
        return replace(audio, warp=audio.warp * _percent(self.factor) / 100)


class Trim(_SoundAugmentation):
    """Cuts off quiet ends, with a random threshold: some voices and microphones lose weak fricatives.

    Boundaries move accordingly; groups in what is cut off are dropped.
    """

    ranges = ("db",)

    type: Literal["trim"]
    db: tuple[PositiveFloat, PositiveFloat] = (25.0, 50.0)
    """Least and largest threshold, in decibels below the loudest part."""
    p: Probability = 0.5
    """Probability of applying it."""

    def apply(self, audio: Audio) -> Audio:
        """The trimmed sound."""
        return trimmed(audio, _uniform(self.db))


class Pad(_SoundAugmentation):
    """Silence of random length before and after the sound; boundaries move accordingly."""

    ranges = ("seconds",)

    type: Literal["pad"]
    seconds: tuple[NonNegativeFloat, PositiveFloat] = (0.0, 0.3)
    """Shortest and longest silence on each side."""
    p: Probability = 0.5
    """Probability of applying it."""

    def apply(self, audio: Audio) -> Audio:
        """The padded sound."""
        before, after = (round(_uniform(self.seconds) * audio.rate) for _ in range(2))
        shift = before / audio.rate
        return replace(
            audio,
            waveform_S=functional.pad(audio.waveform_S, (before, after)),
            boundaries={name: tuple(start + shift for start in starts) for name, starts in audio.boundaries.items()},
            hidden=tuple(
                replace(part, seconds=(part.seconds[0] + shift, part.seconds[1] + shift)) for part in audio.hidden
            ),
        )


class TimeWarp(_SoundAugmentation):
    """Changes the pace within a sound without changing its pitch: speakers lengthen different sounds.

    The time warping of SpecAugment (arXiv 1904.08779), with a random factor for each of several pieces.
    """

    ranges = ("factor",)

    type: Literal["time_warp"]
    factor: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.8, 1.25)
    """Least and largest factor of a piece's pace; as often above 1 as below if one is the inverse of the other."""
    pieces: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of pieces, of random lengths."""
    p: Probability = 0.5
    """Probability of applying it."""

    def apply(self, audio: Audio) -> Audio:
        """The sound with a pace for each piece, which the tokenizer applies to its frames."""
        shares = torch.cat([torch.zeros(1), torch.rand(self.pieces - 1).sort().values, torch.ones(1)])
        source = shares.double() * audio.seconds
        # Factors are uniform on a logarithmic scale, so that twice as fast is as likely as half as fast.
        low, high = (math.log(factor) for factor in self.factor)
        factors = (low + (high - low) * torch.rand(self.pieces)).exp()
        heard = torch.cat([source[:1], (source.diff() / factors).cumsum(0)])
        return replace(audio, pace=Pace(tuple(source.tolist()), tuple(heard.tolist())))


class Gain(_SoundAugmentation):
    """Changes the level."""

    ranges = ("db",)

    type: Literal["gain"]
    db: tuple[float, float] = (-10.0, 6.0)
    """Least and largest gain in decibels."""

    def apply(self, audio: Audio) -> Audio:
        """The louder or softer sound."""
        return replace(audio, waveform_S=audio.waveform_S * 10 ** (_uniform(self.db) / 20))


class Noise(_SoundAugmentation):
    """Adds noise at a random signal-to-noise ratio."""

    ranges = ("snr_db",)

    type: Literal["noise"]
    snr_db: tuple[float, float] = (5.0, 30.0)
    """Least and largest signal-to-noise ratio in decibels."""
    p: Probability = 0.5
    """Probability of applying it."""
    colour: Literal["white", "pink"] = "pink"
    """White noise is as strong at all frequencies; pink noise falls by 3 dB an octave, as rooms and speech do."""
    folder: Path | None = None
    """A folder of recordings to use instead of generated noise; a random part of a random one is added."""

    @model_validator(mode="after")
    def _one_source(self) -> Noise:
        if self.folder is not None and self.colour != type(self).model_fields["colour"].default:
            raise ValueError("colour has no effect with folder; drop one")
        return self

    def build(self) -> Transform:
        """The transform.

        Raises:
            ConfigError: the folder is missing, or contains no sound.
        """
        if self.folder is None:
            return super().build()
        if not self.folder.is_dir():
            raise ConfigError(f"noise folder {self.folder} is not a folder")
        listing = walk(self.folder, SUFFIXES, advice="copy it there")
        listing.warn(log, f"noise folder {self.folder}", unread=False)
        files = sorted(self.folder / name for name in listing.files)
        if not files:
            raise ConfigError(f"noise folder {self.folder} holds no sound; expected {', '.join(sorted(SUFFIXES))}")
        return partial(_sometimes, self.p, partial(self.apply, files=files))

    def apply(self, audio: Audio, files: Sequence[Path] = ()) -> Audio:
        """The sound with noise, which is generated unless there are files to take it from."""
        samples = len(audio.waveform_S)
        ratio = _uniform(self.snr_db)
        if files:
            noise_S = _recorded(files, samples, audio.rate)
        elif self.colour == "white":
            noise_S = torch.randn(samples)
        else:
            size = _fft_size(samples)
            spectrum = torch.fft.rfft(torch.randn(size)) * _pink_amplitudes(size, audio.rate)
            noise_S = torch.fft.irfft(spectrum, size)[:samples]
        power, noise_power = float(audio.waveform_S.square().mean()), float(noise_S.square().mean())
        if not noise_power:
            return audio
        # Decibels are of power, 10 log10; the square root turns the ratio of powers into one of amplitudes.
        scale = math.sqrt(power / noise_power * 10 ** (-ratio / 10))
        return replace(audio, waveform_S=audio.waveform_S + scale * noise_S)


class Equalize(_SoundAugmentation):
    """Simulates another microphone: a smooth random frequency response."""

    type: Literal["equalize"]
    db: PositiveFloat = 6.0
    """Standard deviation of the response in decibels."""
    points: Annotated[int, Field(ge=2, le=64)] = 6
    """Frequencies from 100 Hz to half the rate, evenly spaced in octaves, at which the response is drawn; it is linear
    between them."""
    p: Probability = 0.8
    """Probability of applying it."""

    def apply(self, audio: Audio) -> Audio:
        """The filtered sound."""
        samples = len(audio.waveform_S)
        # Responses that vary over 100 Hz and more ring for about 1/20 s: so many zeros keep the end from wrapping
        # around into the beginning.
        size = _fft_size(samples + audio.rate // 20)
        spectrum = torch.fft.rfft(audio.waveform_S, size)
        low, fraction = _octaves(len(spectrum), audio.rate, self.points)
        curve = self.db * torch.randn(self.points)
        decibels = torch.lerp(curve[low], curve[low + 1], fraction)
        waveform_S = torch.fft.irfft(spectrum * (decibels * (math.log(10) / 20)).exp(), size)[:samples]
        return replace(audio, waveform_S=waveform_S)


class Reverb(_SoundAugmentation):
    """Simulates a room: convolution with noise that decays exponentially."""

    ranges = ("seconds", "direct_db")

    type: Literal["reverb"]
    seconds: tuple[PositiveFloat, PositiveFloat] = (0.05, 0.4)
    """Shortest and longest reverberation time (T60, in which the sound falls by 60 dB)."""
    direct_db: tuple[float, float] = (0.0, 15.0)
    """Least and largest direct-to-reverberant ratio in decibels."""
    p: Probability = 0.5
    """Probability of applying it."""

    def apply(self, audio: Audio) -> Audio:
        """The sound with its reverberation."""
        seconds, ratio = _uniform(self.seconds), _uniform(self.direct_db)
        times = torch.arange(1, max(2, round(seconds * audio.rate))) / audio.rate
        # 60 dB are a factor of 1000 in amplitude.
        tail = torch.randn(len(times)) * torch.exp(-math.log(1000) * times / seconds)
        tail *= 10 ** (-ratio / 20) / tail.square().sum().sqrt()
        samples = len(audio.waveform_S)
        # Zeros for the tail make the circular convolution of the transform a linear one.
        size = _fft_size(samples + len(tail))
        spectrum = torch.fft.rfft(audio.waveform_S, size) * torch.fft.rfft(tail, size)
        # The tail begins one sample after the direct sound.
        reverberant = torch.fft.irfft(spectrum, size)[: samples - 1]
        return replace(audio, waveform_S=audio.waveform_S + torch.cat([torch.zeros(1), reverberant]))


class SpecAugment(_SoundAugmentation):
    """Masks random intervals of time and ranges of bands with the features' mean (arXiv 1904.08779)."""

    type: Literal["spec_augment"]
    times: NonNegativeInt = 2
    """Number of time masks."""
    max_seconds: PositiveFloat = 0.1
    """Longest time mask."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Longest time mask as a fraction of the sound; the smaller of the two limits applies."""
    bands: NonNegativeInt = 2
    """Number of band masks."""
    max_band: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Widest band mask, as a fraction of all bands."""

    @model_validator(mode="after")
    def _does_something(self) -> SpecAugment:
        if not self.times and not self.bands:
            raise ValueError("spec_augment without times and bands changes nothing; set one of them")
        return self

    def apply(self, audio: Audio) -> Audio:
        """The sound with its masks, which the tokenizer applies to the features."""
        longest = min(self.max_seconds, self.max_share * audio.seconds)
        hidden = [Hidden(seconds=_random_interval(longest, audio.seconds)) for _ in range(self.times)]
        hidden += [Hidden(bands=_random_interval(self.max_band, 1.0)) for _ in range(self.bands)]
        return replace(audio, hidden=(*audio.hidden, *hidden))


Augmentation = Annotated[
    Speed | VocalTract | Trim | Pad | TimeWarp | Gain | Equalize | Reverb | Noise | SpecAugment,
    Field(discriminator="type"),
]
_CHANGE_LENGTH = (Speed, Trim, Pad, TimeWarp)


def chain(augmentations: Sequence[Augmentation]) -> Transform | None:
    """The transforms one after another; ``None`` for none.

    Raises:
        ConfigError: one of those that change the length of a sound comes after ``time_warp``.
    """
    if not augmentations:
        return None
    for index, augmentation in enumerate(augmentations):
        late = [later.type for later in augmentations[index + 1 :] if isinstance(later, _CHANGE_LENGTH)]
        if isinstance(augmentation, TimeWarp) and late:
            raise ConfigError(
                f"data.augment has {late[0]} after time_warp, which is the last to change times; swap them"
            )
    return partial(_apply_all, [augmentation.build() for augmentation in augmentations])


def trimmed(audio: Audio, db: float) -> Audio:
    """A sound without its quiet ends: intervals of 10 ms whose power is far below that of the loudest one.

    One more interval stays at each end, because stops and fricatives begin and end quietly. Boundaries move
    accordingly; groups in what is cut off are dropped. Uniform silence stays as it is.

    Args:
        audio: the sound, before augmentation.
        db: threshold in decibels below the loudest interval.
    """
    assert not audio.hidden, "masks would have to move too"
    size = max(1, round(_STRETCH_S * audio.rate))
    padded_S = functional.pad(audio.waveform_S, (0, -len(audio.waveform_S) % size))
    power_N = padded_S.reshape(-1, size).square().mean(1)
    loud = (power_N >= power_N.max() * 10 ** (-db / 10)).nonzero().flatten()
    first, last = max(0, int(loud[0]) - 1), int(loud[-1]) + 2
    before, after = first * size / audio.rate, min(last * size, len(audio.waveform_S)) / audio.rate
    inside = {}
    for name, starts in audio.boundaries.items():
        # A group ends where the next one starts; groups that overlap what is left stay.
        ends = (*starts[1:], float("inf"))
        groups = enumerate(zip(starts, ends, strict=True))
        inside[name] = [index for index, (start, end) in groups if end > before and start < after]
    return replace(
        audio,
        waveform_S=audio.waveform_S[first * size : last * size],
        boundaries={
            name: tuple(max(0.0, audio.boundaries[name][index] - before) for index in indices)
            for name, indices in inside.items()
        },
        labels={
            name: tuple(unit_labels[index] for index in inside[name]) if name in inside else unit_labels
            for name, unit_labels in audio.labels.items()
        },
    )


def _apply_all(transforms: Sequence[Transform], audio: Audio) -> Audio:
    for transform in transforms:
        audio = transform(audio)
    return audio


def _percent(factor: tuple[float, float]) -> int:
    """A random factor in whole hundredths, so that resampling needs few different filters."""
    low, high = (round(100 * edge) for edge in factor)
    return int(torch.randint(low, high + 1, ()))


@lru_cache(maxsize=64)
def _octaves(bins: int, rate: int, points: int) -> tuple[Tensor, Tensor]:
    """For each bin, the point below it and the distance from there as a fraction of that between points."""
    hertz = torch.linspace(0, rate / 2, bins)
    octaves = (hertz.clamp(min=100.0) / 100.0).log2()
    # Below the last point, so that there is a point above each bin.
    position = (octaves / max(float(octaves[-1]), 1e-9) * (points - 1)).clamp(max=points - 1 - 1e-6)
    return position.long(), position.frac()


@lru_cache(maxsize=64)
def _pink_amplitudes(size: int, rate: int) -> Tensor:
    """Amplitudes of pink noise over the bins of a transform."""
    bins = torch.arange(size // 2 + 1, dtype=torch.float32)
    # Constant below 20 Hz: that is inaudible, and would take all the power.
    return bins.clamp(min=max(1.0, 20 * size / rate)).rsqrt()


def _recorded(files: Sequence[Path], samples: int, rate: int) -> Tensor:
    """Noise from a random file, or from the next one if that cannot be read."""
    first = int(torch.randint(len(files), ()))
    for path in (*files[first:], *files[:first]):
        try:
            return _random_part(path, samples, rate)
        except BadSample as error:
            last_error = error
            _warn_once(str(error))
    raise BadSample("noise", f"no file of its folder can be read; the last is {last_error}")


@lru_cache(maxsize=1024)
def _warn_once(message: str) -> None:
    log.warning("left out as noise: %s", message)


def _random_part(path: Path, samples: int, rate: int) -> Tensor:
    """A random part of a file, repeated if the file is shorter."""
    header = read_header(path, str(path))
    seconds, length = samples / rate, header.samples / header.rate
    offset = float(torch.rand(())) * max(0.0, length - seconds)
    audio = read_audio(path, str(path), offset, min(seconds, length - offset))
    resampled_S = resampled(audio.waveform_S, audio.rate, rate)
    if not len(resampled_S):
        raise BadSample(str(path), "is too short to serve as noise; remove it")
    return resampled_S.repeat(-(-samples // len(resampled_S)))[:samples]


def _fft_size(size: int) -> int:
    """The next length with a fast Fourier transform: a multiple of a power of two near an eighth of it."""
    step = max(64, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _random_interval(longest: float, total: float) -> tuple[float, float]:
    size = float(torch.rand(())) * longest
    first = float(torch.rand(())) * (total - size)
    return first, first + size


def _uniform(edges: tuple[float, float]) -> float:
    return edges[0] + float(torch.rand(())) * (edges[1] - edges[0])
