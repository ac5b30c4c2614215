"""Augmentation of training sounds: speed, pace, silence, gain, other microphones and rooms, noise, and SpecAugment.

Each takes a sound and gives one, and draws from torch's global generator.

Shapes: S samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor

from hrt_mm.core.component import Component
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.folders import walk

from .audio import Audio, Hidden, Pace
from .files import SUFFIXES, read_audio, read_header
from .resample import resampled
from .trim import trimmed

log = logging.getLogger(__name__)

Transform = Callable[[Audio], Audio]
Probability = Annotated[float, Field(ge=0, le=1)]


class Speed(Component):
    """Faster or slower, and so higher or lower, by resampling; boundaries move along."""

    type: Literal["speed"]
    factor: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.9, 1.1)
    """Least and largest factor. It is drawn in whole hundredths."""

    @model_validator(mode="after")
    def _ordered(self) -> Speed:
        _ascending("factor", self.factor)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_changed_speed, self)


class VocalTract(Component):
    """A shorter or longer vocal tract: resonances move, pitch and pace stay (VTLP; Jaitly and Hinton, 2013)."""

    type: Literal["vocal_tract"]
    factor: tuple[Annotated[float, Field(ge=0.5)], Annotated[float, Field(le=2)]] = (0.9, 1.1)
    """Least and largest factor. It is drawn in whole hundredths."""

    @model_validator(mode="after")
    def _ordered(self) -> VocalTract:
        _ascending("factor", self.factor)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_changed_tract, self)


class Trim(Component):
    """Quiet ends cut off, by a threshold of its own each time: weak fricatives go with some voices and microphones.

    Groups move along, and those that lie in what is cut off are gone.
    """

    type: Literal["trim"]
    db: tuple[PositiveFloat, PositiveFloat] = (25.0, 50.0)
    """Least and largest distance under the loudest part of what is cut off, in decibels."""
    p: Probability = 0.5
    """How often."""

    @model_validator(mode="after")
    def _ordered(self) -> Trim:
        _ascending("db", self.db)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_trimmed_sometimes, self)


class Pad(Component):
    """Silence before and after the sound, each of a length of its own; boundaries move along."""

    type: Literal["pad"]
    seconds: tuple[NonNegativeFloat, PositiveFloat] = (0.0, 0.3)
    """Shortest and longest silence on each side."""
    p: Probability = 0.5
    """How often."""

    @model_validator(mode="after")
    def _ordered(self) -> Pad:
        _ascending("seconds", self.seconds)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_padded, self)


class TimeWarp(Component):
    """A pace that changes within the sound, at the same pitch: some speakers dwell on a vowel, others on its end.

    The time warping of SpecAugment (arXiv 1904.08779), with a random factor for each of several pieces.
    """

    type: Literal["time_warp"]
    factor: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.8, 1.25)
    """Least and largest factor of a piece's pace; as often above 1 as below if one is the inverse of the other."""
    pieces: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many there are, of random lengths."""
    p: Probability = 0.5
    """How often."""

    @model_validator(mode="after")
    def _ordered(self) -> TimeWarp:
        _ascending("factor", self.factor)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_warped, self)


class Gain(Component):
    """Louder or softer."""

    type: Literal["gain"]
    db: tuple[float, float] = (-10.0, 6.0)
    """Least and largest gain in decibels."""

    @model_validator(mode="after")
    def _ordered(self) -> Gain:
        _ascending("db", self.db)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_amplified, self)


class Noise(Component):
    """Noise at a given distance under the sound."""

    type: Literal["noise"]
    snr_db: tuple[float, float] = (5.0, 30.0)
    """Least and largest ratio of the sound's power to that of the noise, in decibels."""
    p: Probability = 0.5
    """How often."""
    colour: Literal["white", "pink"] = "pink"
    """White noise is as strong at all frequencies; pink noise falls by 3 dB an octave, as rooms and speech do."""
    folder: Path | None = None
    """A folder of recordings, in place of made noise; a random part of a random one is taken."""

    @model_validator(mode="after")
    def _ordered(self) -> Noise:
        _ascending("snr_db", self.snr_db)
        if self.folder is not None and self.colour != type(self).model_fields["colour"].default:
            raise ValueError("colour has no effect with folder; drop one")
        return self

    def build(self) -> Transform:
        """The transform.

        Raises:
            ConfigError: the folder is missing, or holds no sound.
        """
        if self.folder is None:
            return partial(_noisy, self, _white if self.colour == "white" else _pink)
        if not self.folder.is_dir():
            raise ConfigError(f"noise folder {self.folder} is not a folder")
        listing = walk(self.folder, SUFFIXES, advice="copy it there")
        listing.warn(log, f"noise folder {self.folder}", unread=False)
        files = sorted(self.folder / name for name in listing.files)
        if not files:
            raise ConfigError(f"noise folder {self.folder} holds no sound; expected {', '.join(sorted(SUFFIXES))}")
        return partial(_noisy, self, partial(_recorded, files))


class Equalize(Component):
    """Another microphone: a smooth random curve over frequency, in decibels."""

    type: Literal["equalize"]
    db: PositiveFloat = 6.0
    """Deviation of the curve."""
    points: Annotated[int, Field(ge=2, le=64)] = 6
    """Places from 100 Hz to half the rate, evenly over octaves, at which it is drawn; between them it is straight."""
    p: Probability = 0.8
    """How often."""

    def build(self) -> Transform:
        """The transform."""
        return partial(_equalized, self)


class Reverb(Component):
    """A room: what is heard once more as it dies away, as noise that decays exponentially."""

    type: Literal["reverb"]
    seconds: tuple[PositiveFloat, PositiveFloat] = (0.05, 0.4)
    """Shortest and longest time in which it falls by 60 dB."""
    direct_db: tuple[float, float] = (0.0, 15.0)
    """Least and largest ratio of the power that comes straight to what comes from the walls, in decibels."""
    p: Probability = 0.5
    """How often."""

    @model_validator(mode="after")
    def _ordered(self) -> Reverb:
        _ascending("seconds", self.seconds)
        _ascending("direct_db", self.direct_db)
        return self

    def build(self) -> Transform:
        """The transform."""
        return partial(_in_room, self)


class SpecAugment(Component):
    """Hides random stretches of time and ranges of bands (arXiv 1904.08779): zeros about the features' mean."""

    type: Literal["spec_augment"]
    times: NonNegativeInt = 2
    """Stretches of time."""
    max_seconds: PositiveFloat = 0.1
    """The longest one."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The longest one as a part of the sound; the smaller of the two counts."""
    bands: NonNegativeInt = 2
    """Ranges of bands."""
    max_band: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The widest one, as a part of all bands."""

    @model_validator(mode="after")
    def _does_something(self) -> SpecAugment:
        if not self.times and not self.bands:
            raise ValueError("spec_augment without times and bands changes nothing; set one of them")
        return self

    def build(self) -> Transform:
        """The transform."""
        return self._hidden

    def _hidden(self, audio: Audio) -> Audio:
        longest = min(self.max_seconds, self.max_share * audio.seconds)
        hidden = [Hidden(seconds=_part(longest, audio.seconds)) for _ in range(self.times)]
        hidden += [Hidden(bands=_part(self.max_band, 1.0)) for _ in range(self.bands)]
        return replace(audio, hidden=(*audio.hidden, *hidden))


Augmentation = Annotated[
    Speed | VocalTract | Trim | Pad | TimeWarp | Gain | Equalize | Reverb | Noise | SpecAugment,
    Field(discriminator="type"),
]
_TIMES = (Speed, Trim, Pad, TimeWarp)
"""Those that change the length of a sound."""


def chain(augmentations: Sequence[Augmentation]) -> Transform | None:
    """The transforms one after another; ``None`` for none.

    Raises:
        ConfigError: one of those that change the length of a sound comes after ``time_warp``.
    """
    if not augmentations:
        return None
    for index, each in enumerate(augmentations):
        late = [later.type for later in augmentations[index + 1 :] if isinstance(later, _TIMES)]
        if isinstance(each, TimeWarp) and late:
            raise ConfigError(
                f"data.augment has {late[0]} after time_warp, which is the last to change times; swap them"
            )
    return partial(_in_turn, [augmentation.build() for augmentation in augmentations])


# Transforms are functions of this module with some arguments given: workers that are not forked get them by pickle.


def _in_turn(transforms: Sequence[Transform], audio: Audio) -> Audio:
    for transform in transforms:
        audio = transform(audio)
    return audio


def _changed_speed(config: Speed, audio: Audio) -> Audio:
    return _faster(audio, _percent(config.factor))


def _changed_tract(config: VocalTract, audio: Audio) -> Audio:
    return replace(audio, warp=audio.warp * _percent(config.factor) / 100)


def _percent(factor: tuple[float, float]) -> int:
    low, high = (round(100 * edge) for edge in factor)
    return int(torch.randint(low, high + 1, ()))


def _trimmed_sometimes(config: Trim, audio: Audio) -> Audio:
    return trimmed(audio, _uniform(config.db)) if float(torch.rand(())) < config.p else audio


def _amplified(config: Gain, audio: Audio) -> Audio:
    return replace(audio, waveform_S=audio.waveform_S * 10 ** (_uniform(config.db) / 20))


def _faster(audio: Audio, percent: int) -> Audio:
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


def _padded(config: Pad, audio: Audio) -> Audio:
    if float(torch.rand(())) >= config.p:
        return audio
    before, after = (round(_uniform(config.seconds) * audio.rate) for _ in range(2))
    shift = before / audio.rate
    return replace(
        audio,
        waveform_S=torch.nn.functional.pad(audio.waveform_S, (before, after)),
        boundaries={name: tuple(start + shift for start in starts) for name, starts in audio.boundaries.items()},
        hidden=tuple(
            replace(part, seconds=(part.seconds[0] + shift, part.seconds[1] + shift)) for part in audio.hidden
        ),
    )


def _warped(config: TimeWarp, audio: Audio) -> Audio:
    if float(torch.rand(())) >= config.p:
        return audio
    shares = torch.cat([torch.zeros(1), torch.rand(config.pieces - 1).sort().values, torch.ones(1)])
    source = shares.double() * audio.seconds
    low, high = (math.log(factor) for factor in config.factor)
    factors = (low + (high - low) * torch.rand(config.pieces)).exp()
    heard = torch.cat([source[:1], (source.diff() / factors).cumsum(0)])
    return replace(audio, pace=Pace(tuple(source.tolist()), tuple(heard.tolist())))


def _noisy(config: Noise, make: Callable[[int, int], Tensor], audio: Audio) -> Audio:
    if float(torch.rand(())) >= config.p:
        return audio
    ratio = _uniform(config.snr_db)
    noise_S = make(len(audio.waveform_S), audio.rate)
    power, noise_power = float(audio.waveform_S.square().mean()), float(noise_S.square().mean())
    if not noise_power:
        return audio
    scale = math.sqrt(power / noise_power * 10 ** (-ratio / 10))
    return replace(audio, waveform_S=audio.waveform_S + scale * noise_S)


def _equalized(config: Equalize, audio: Audio) -> Audio:
    if float(torch.rand(())) >= config.p:
        return audio
    samples = len(audio.waveform_S)
    # A twentieth of a second of zeros: so long do curves ring that change over 100 Hz and more.
    size = _smooth(samples + audio.rate // 20)
    spectrum = torch.fft.rfft(audio.waveform_S, size)
    low, fraction = _octaves(len(spectrum), audio.rate, config.points)
    curve = config.db * torch.randn(config.points)
    decibels = torch.lerp(curve[low], curve[low + 1], fraction)
    waveform_S = torch.fft.irfft(spectrum * (decibels * (math.log(10) / 20)).exp(), size)[:samples]
    return replace(audio, waveform_S=waveform_S)


@lru_cache(maxsize=64)
def _octaves(bins: int, rate: int, points: int) -> tuple[Tensor, Tensor]:
    """The point below each bin, and how far it is from there to the next one."""
    hertz = torch.linspace(0, rate / 2, bins)
    octaves = (hertz.clamp(min=100.0) / 100.0).log2()
    position = (octaves / max(float(octaves[-1]), 1e-9) * (points - 1)).clamp(max=points - 1 - 1e-6)
    return position.long(), position.frac()


def _in_room(config: Reverb, audio: Audio) -> Audio:
    if float(torch.rand(())) >= config.p:
        return audio
    seconds, ratio = _uniform(config.seconds), _uniform(config.direct_db)
    times = torch.arange(1, max(2, round(seconds * audio.rate))) / audio.rate
    # 60 dB are a factor of 1000 in amplitude.
    tail = torch.randn(len(times)) * torch.exp(-math.log(1000) * times / seconds)
    tail *= 10 ** (-ratio / 20) / tail.square().sum().sqrt()
    samples = len(audio.waveform_S)
    size = _smooth(samples + len(tail))
    later = torch.fft.irfft(torch.fft.rfft(audio.waveform_S, size) * torch.fft.rfft(tail, size), size)[: samples - 1]
    return replace(audio, waveform_S=audio.waveform_S + torch.cat([torch.zeros(1), later]))


def _white(samples: int, rate: int) -> Tensor:
    return torch.randn(samples)


def _pink(samples: int, rate: int) -> Tensor:
    size = _smooth(samples)
    return torch.fft.irfft(torch.fft.rfft(torch.randn(size)) * _fall(size, rate), size)[:samples]


@lru_cache(maxsize=64)
def _fall(size: int, rate: int) -> Tensor:
    """Of pink noise, amplitudes over the bins of a transform."""
    bins = torch.arange(size // 2 + 1, dtype=torch.float32)
    # Below 20 Hz it stays as strong as there: no one hears it, and it would take all the power.
    return bins.clamp(min=max(1.0, 20 * size / rate)).rsqrt()


def _recorded(files: Sequence[Path], samples: int, rate: int) -> Tensor:
    """Noise from a random file, or from the next one where that cannot be read."""
    drawn = int(torch.randint(len(files), ()))
    for path in (*files[drawn:], *files[:drawn]):
        try:
            return _part_of(path, samples, rate)
        except BadSample as error:
            bad = error
            _say_once(str(error))
    raise BadSample("noise", f"no file of its folder can be read; the last is {bad}")


@lru_cache(maxsize=1024)
def _say_once(message: str) -> None:
    log.warning("left out as noise: %s", message)


def _part_of(path: Path, samples: int, rate: int) -> Tensor:
    """A random part of a file, repeated where the file is shorter."""
    header = read_header(path, str(path))
    seconds, length = samples / rate, header.samples / header.rate
    offset = float(torch.rand(())) * max(0.0, length - seconds)
    audio = read_audio(path, str(path), offset, min(seconds, length - offset))
    resampled_S = resampled(audio.waveform_S, audio.rate, rate)
    if not len(resampled_S):
        raise BadSample(str(path), "is too short to serve as noise; remove it")
    return resampled_S.repeat(-(-samples // len(resampled_S)))[:samples]


def _smooth(size: int) -> int:
    """A length from ``size`` on whose transform is fast: a large power of two divides it."""
    step = max(64, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _part(longest: float, total: float) -> tuple[float, float]:
    size = float(torch.rand(())) * longest
    first = float(torch.rand(())) * (total - size)
    return first, first + size


def _uniform(edges: tuple[float, float]) -> float:
    return edges[0] + float(torch.rand(())) * (edges[1] - edges[0])


def _ascending(key: str, pair: tuple[float, float]) -> None:
    if pair[0] > pair[1]:
        raise ValueError(f"{key} goes from least to largest, got {pair[0]:g} to {pair[1]:g}; swap them")
