"""The audio tokenizer: sounds of any rate and length to packed frames, with boundaries from times.

Shapes: T tokens, F raw features of a token, S samples, L frames, W features of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.dense import dense_sequences
from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import Contextual, SizeAdapting
from hrt_mm.data.tokenizer import Tokenizer, TokenizerConfig

from .audio import Audio, Hidden, Pace, check_audio, check_waveform
from .frames import FrameStream, Framing, LogMel, RunningMean, Waveform
from .pretrained import SoundStem
from .resample import ResampleStream, resampled, resampled_length
from .stems import AudioConvStem, SoundStems, StemConfig

WHOLE = "sounds"
"""The boundary of which each sound is one group."""
_LEAST_STD = 0.05
"""Lower bound of the standard deviation of a sound, because digital silence has none."""
Rate = Annotated[int, Field(ge=1_000, le=768_000)]


class NormConfig(Component):
    """Normalization of log-mel bands: by constants, so that streams equal files, or over the whole sound."""

    mean: float = -12.0
    """Mean of the logarithm of the power in a band, with full scale at 1; the default suits speech at any rate."""
    std: PositiveFloat = 4.0
    """Its standard deviation."""
    running_s: PositiveFloat | None = None
    """Time constant in seconds of an exponential moving average that is subtracted from each band, which removes the
    effect of the microphone and the room. None when absent."""
    whole: Annotated[float, Field(ge=0, le=1)] | None = None
    """Subtract the sound's mean and divide by its standard deviation, both over all frames and bands, which makes the
    model independent of loudness and background level. The number, from 0 to 1, interpolates between the mean of all
    bands and the mean of each band: 1 also removes the colour of a microphone, and steady sounds. Not for streams. None
    when absent."""

    @model_validator(mode="after")
    def _one_of_both(self) -> NormConfig:
        if self.whole is not None and self.running_s is not None:
            raise ValueError("whole and running_s take off a mean each; drop one of them")
        return self


class AudioConfig(TokenizerConfig):
    """Sound as frames."""

    type: Literal["audio"]
    rate: Rate = 16_000
    """Samples per second; sounds of other rates are resampled."""
    features: Literal["log_mel", "waveform"] = "log_mel"
    """Features of a frame: the power in mel bands, or its samples."""
    hop_ms: PositiveFloat = 10.0
    """Distance of frames in milliseconds, rounded to whole samples."""
    window_ms: PositiveFloat = 25.0
    """Length of a window of mel bands in milliseconds, centred on the hop."""
    mels: PositiveInt = 80
    """Number of bands."""
    lowest_hz: Annotated[float, Field(ge=0)] = 20.0
    """Lower edge of the bands."""
    highest_hz: PositiveFloat | None = None
    """Upper edge of the bands; half the rate when absent."""
    norm: NormConfig = NormConfig()
    """Normalization of the bands."""
    scale: PositiveFloat = 0.1
    """Divides the samples if features are the waveform."""
    stem: SoundStems = StemConfig()
    """How frames become tokens, or the pretrained encoder whose frames are tokens."""
    carried: tuple[str, ...] = ("phonemes", "words")
    """Boundaries that the data provides, as start times of groups. Only those that the model or the task requests are
    required."""
    max_seconds: PositiveFloat = 600.0
    """Limit of the duration, on reading and after augmentation. Longer sounds are bad samples, and not read to the
    end."""

    @model_validator(mode="after")
    def _agree(self) -> AudioConfig:
        if WHOLE in self.carried:
            raise ValueError(f"the boundary {WHOLE!r} is each sound itself; drop it from carried")
        default = AudioConfig.model_fields
        if isinstance(self.stem, SoundStem):
            for key in ("features", "hop_ms", "window_ms", "mels", "lowest_hz", "highest_hz", "norm", "scale"):
                if getattr(self, key) != default[key].default:
                    raise ValueError(f"{key} has no effect with stem.type: {self.stem.type}; drop it")
            return self
        if self.features == "waveform":
            for key in ("window_ms", "mels", "lowest_hz", "highest_hz", "norm"):
                if getattr(self, key) != default[key].default:
                    raise ValueError(f"{key} has no effect with features: waveform; drop it")
            if self.stem.channels:
                raise ValueError("stem.channels go over bands, and features: waveform have none; drop it")
        elif self.scale != default["scale"].default:
            raise ValueError("scale has no effect with features: log_mel; set norm.mean and norm.std")
        if self.window_ms < self.hop_ms and self.features == "log_mel":
            raise ValueError(f"window_ms {self.window_ms:g} is below hop_ms {self.hop_ms:g}; samples would be lost")
        if self.hop < 1:
            raise ValueError(f"hop_ms {self.hop_ms:g} is less than a sample at rate {self.rate}; raise it")
        top = self.rate / 2 if self.highest_hz is None else self.highest_hz
        if not self.lowest_hz < top <= self.rate / 2:
            raise ValueError(
                f"bands from {self.lowest_hz:g} to {top:g} Hz do not rise within half the rate, {self.rate / 2:g} Hz"
            )
        return self

    @property
    def hop(self) -> int:
        """Distance of frames in samples."""
        return round(self.hop_ms * self.rate / 1000)

    def build(self, model: HierarchyConfig | None = None) -> AudioTokenizer:
        """The tokenizer."""
        return AudioTokenizer(self)


class AudioTokenizer(Tokenizer, Contextual, SizeAdapting):
    """Cuts sounds into frames, and stacks ``stem.frames`` of them to a token.

    Takes :class:`~hrt_modalities.audio.audio.Audio` of any rate. Returns raw features (T, F) and coordinates in tokens:
    token t covers the time from ``t * seconds_per_token`` to ``(t + 1) * seconds_per_token``, with a lookahead of
    ``lookahead_seconds``. The last one is padded with zeros.

    A group starts with the token whose start is nearest to its time. Two groups that start on one token become one, and
    a group that starts at the end is dropped. The boundary ``sounds`` makes one group of each sound.

    With a pretrained encoder, raw features of a token are the samples that its frame is made of.

    Raises:
        ConfigError: there is no such encoder, or it is of another modality or sampling rate.
    """

    axes = 1
    levels = ("frames", "phonemes", "words", "utterance")
    features: int

    def __init__(self, config: AudioConfig) -> None:
        self.config = config
        self.boundaries, self.carried = (WHOLE, *config.carried), config.carried
        self.non_causal_setting = "modality.norm.whole" if config.norm.whole is not None else ""
        self.framer: LogMel | Waveform
        self.stack = 1
        """Frames of a token."""
        hop = config.hop
        if isinstance(config.stem, SoundStem):
            framing = config.stem.framing()
            if framing.rate != config.rate:
                raise ConfigError(
                    f"modality.rate {config.rate}: {config.stem.name!r} was trained on {framing.rate} samples a "
                    f"second; set modality.rate: {framing.rate}, and sounds of any rate are resampled to it"
                )
            self.framer = Waveform(framing, 1.0)
            self.non_causal_setting = f"modality.stem.type: {config.stem.type}"
        elif config.features == "waveform":
            self.framer = Waveform(Framing(config.rate, hop, hop), config.scale)
        else:
            framing = Framing(config.rate, hop, max(hop, round(config.window_ms * config.rate / 1000)))
            highest = config.highest_hz or config.rate / 2
            self.framer = LogMel(framing, config.mels, config.lowest_hz, highest, config.norm.mean, config.norm.std)
        seconds = config.norm.running_s
        self.running = RunningMean(seconds * config.rate / hop) if seconds is not None else None
        if isinstance(config.stem, StemConfig):
            self.receptive_field, self.lookahead = config.stem.recent, config.stem.ahead
            self.stack = config.stem.frames
        self.features = self.framer.width * self.stack

    @property
    def seconds_per_token(self) -> float:
        """Duration of a token."""
        return self._samples_per_token / self.config.rate

    @property
    def lookahead_seconds(self) -> float:
        """Duration of the sound after a raw token's time that it depends on."""
        return self.framer.framing.ahead / self.config.rate

    @property
    def _samples_per_token(self) -> int:
        return self.framer.framing.hop * self.stack

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs sounds, with the requested boundaries.

        Raises:
            BadSample: a value is no sound, has no samples, is too long or has values that are not finite, or its
                boundaries are missing, out of order or past its end; names its index in the batch.
        """
        parts: list[Tensor] = []
        masks: dict[str, list[Tensor]] = {boundary: [] for boundary in sorted(self.requested_boundaries)}
        for index, value in enumerate(values):
            name = f"sound {index} of the batch"
            audio = check_audio(value, name)
            x_TF = self.encode(audio, name)
            parts.append(x_TF)
            for boundary, starts in masks.items():
                if boundary == WHOLE:
                    starts.append(self.starts_at((), len(x_TF)))
                    continue
                if boundary not in audio.boundaries:
                    available = ", ".join(audio.boundaries) or "none"
                    raise BadSample(name, f"carries no boundary {boundary!r}; it has {available}")
                starts.append(self.starts_at(audio.heard_at(audio.boundaries[boundary]), len(x_TF)))
        return Tokens.pack(parts, boundaries=masks)

    def encode(self, audio: Audio, name: str = "the sound") -> Tensor:
        """(T, F) raw features of a sound.

        Raises:
            BadSample: it is too long.
            ConfigError: an augmentation of bands was applied, and the features have no bands.
        """
        if audio.seconds_heard > self.config.max_seconds:
            raise BadSample(
                name,
                f"lasts {audio.seconds_heard:.1f} s, longer than modality.max_seconds {self.config.max_seconds:g}; "
                "raise it or read the sound in parts",
            )
        waveform_S = resampled(audio.waveform_S, audio.rate, self.config.rate)
        if audio.warp != 1 and isinstance(self.framer, Waveform):
            raise ConfigError("frames of a waveform have no bands to move; drop vocal_tract from data.augment")
        x_TF = self.framer(self._windows(waveform_S, audio.pace), audio.warp)
        if self.running is not None:
            x_TF, _ = self.running(x_TF)
        if self.config.norm.whole is not None:
            all_bands = x_TF.mean()
            mean_F = all_bands.lerp(x_TF.mean(0), self.config.norm.whole)
            std = (x_TF - all_bands).square().mean().sqrt().clamp(min=_LEAST_STD)
            x_TF = (x_TF - mean_F) / std
        for hidden in audio.hidden:
            start, end = audio.heard_at(hidden.seconds)
            self._mask(x_TF, replace(hidden, seconds=(start, end)))
        return x_TF.reshape(-1, self.features)

    def _windows(self, waveform_S: Tensor, pace: Pace | None) -> Tensor:
        """(L, W) windows of the frames of a sound, for whole tokens."""
        framing = self.framer.framing
        if pace is None:
            return framing.windows(waveform_S, self.count(len(waveform_S)) * self.stack)
        # Frames are evenly spaced in the time that is heard, and taken where the pace puts them in the waveform.
        frames = self.count(max(1, round(pace.seconds * self.config.rate))) * self.stack
        seconds = pace.source_at(np.arange(frames) * (framing.hop / self.config.rate))
        starts = np.minimum(np.round(seconds * self.config.rate), len(waveform_S))
        return framing.windows_at(waveform_S, torch.from_numpy(starts).long())

    def count(self, samples: int) -> int:
        """Number of tokens of a number of samples at the tokenizer's rate."""
        return -(-samples // self._samples_per_token)

    def starts_at(self, times: Sequence[float], tokens: int) -> Tensor:
        """(T,) bool, true at the tokens nearest to the given times, and at the first one."""
        starts_T = torch.zeros(tokens, dtype=torch.bool)
        indices = [round(time / self.seconds_per_token) for time in times]
        starts_T[[0, *(index for index in indices if index < tokens)]] = True
        return starts_T

    def stream(self, *, rate: int | None = None, **source: Any) -> SoundTokenStream:
        """Tokens of a sound that arrives in chunks of any size, equal to those of the whole.

        Args:
            rate: of the chunks, in samples per second; the tokenizer's when ``None``.
            source: no other arguments.

        Raises:
            UserError: sounds are normalized as a whole.
        """
        assert not source, source
        if isinstance(self.config.stem, SoundStem):
            raise UserError(
                f"a stem of type {self.config.stem.type} reads whole sounds, and a stream is none; train with a stem "
                "without a type"
            )
        if self.config.norm.whole is not None:
            raise UserError(
                "modality.norm.whole needs a sound as a whole, which a stream is not; train with norm.running_s"
            )
        frames = FrameStream(self.framer, self.running, self.stack)
        return SoundTokenStream(frames, ResampleStream(rate or self.config.rate, self.config.rate), self.features)

    def embedding(self, dim: int) -> nn.Module:
        """The stem.

        Raises:
            ConfigError: the weights of a pretrained encoder are missing or damaged.
        """
        if isinstance(self.config.stem, SoundStem):
            return self.config.stem.build(dim)
        return AudioConvStem(self.features, dim, self.config.stem)

    def size(self, shape: Sequence[int]) -> int:
        """Number of tokens of a sound of shape (samples, rate)."""
        samples, rate = shape
        return self.count(resampled_length(samples, rate, self.config.rate))

    def dense_axes(self) -> dict[str, dict[int, str]]:
        """Frames and lengths of sounds of any duration.

        Raises:
            ConfigError: the stem is a pretrained encoder, whose windows depend on the sound.
        """
        if isinstance(self.config.stem, SoundStem):
            raise ConfigError(
                f"a stem of type {self.config.stem.type} cannot be exported; run this model in PyTorch "
                "(hrt_mm.inference.load_run), or train with a stem without a type"
            )
        return {"frames": {0: "batch", 1: "length"}, "lengths": {0: "batch"}}

    def dense_example(self, size: int) -> Audio:
        """A sound of noise."""
        return Audio(0.1 * torch.randn(self._samples_per_token * 5 * size), self.config.rate)

    def dense_batch(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """(B, L, F) raw features, padded with zeros, and (B,) lengths in tokens.

        Raises:
            BadSample: a value is no sound, or too long.
        """
        names = [f"sound {index} of the batch" for index in range(len(values))]
        sounds = [self.encode(check_audio(value, name), name) for value, name in zip(values, names, strict=True)]
        lengths = torch.tensor([len(sound) for sound in sounds])
        return {"frames": nn.utils.rnn.pad_sequence(sounds, batch_first=True), "lengths": lengths}

    def dense_tokens(self, embedding: nn.Module, inputs: Mapping[str, Tensor], unit: Sequence[int]) -> Tokens:
        """The embedded tokens of a padded batch."""
        embedded: Tokens = embedding(dense_sequences(inputs["frames"], inputs["lengths"], unit[0]))
        return embedded

    def dense_metadata(self) -> dict[str, Any]:
        """Rate, framing and normalization: the settings of the modality."""
        return {
            "seconds_per_token": self.seconds_per_token,
            "features_per_token": self.features,
            "normalization": "in the frames",
            **self.config.model_dump(mode="json", exclude={"type", "carried"}),
        }

    def restore(self, tokens: Tokens) -> list[Audio]:
        """The sounds, if features are the waveform; with the zeros at their ends.

        Raises:
            ConfigError: features are bands, from which the sound cannot be restored.
        """
        if isinstance(self.config.stem, SoundStem):
            raise ConfigError(
                "tokens of a pretrained encoder are no sound; a stem without a type has modality.features"
            )
        if self.config.features != "waveform":
            raise ConfigError("log-mel bands do not hold the sound; modality.features: waveform does")
        return [Audio((x_TF.float() * self.config.scale).reshape(-1), self.config.rate) for x_TF in tokens.split()]

    def _mask(self, x_TF: Tensor, hidden: Hidden) -> None:
        """Sets a part of the frames to 0, approximately the mean."""
        if isinstance(self.framer, Waveform) and hidden.bands != (0.0, 1.0):
            raise ConfigError(
                "frames of a waveform have no bands to hide; set bands: 0 in spec_augment of data.augment"
            )
        frames = self.config.rate / self.framer.framing.hop
        first, last = (round(min(edge * frames, len(x_TF))) for edge in hidden.seconds)
        low, high = (round(edge * x_TF.shape[1]) for edge in hidden.bands)
        x_TF[first:last, low:high] = 0


class SoundTokenStream:
    """Tokens of a sound that arrives in chunks of any size; together they equal those of the whole.

    Its memory is less than a token, a window and the length of the resampling filter.

    Args:
        frames: cuts frames.
        resample: resamples to the rate of the frames.
        features: of a token.
    """

    def __init__(self, frames: FrameStream, resample: ResampleStream, features: int) -> None:
        self._frames, self._resample, self._features = frames, resample, features
        self._open = torch.empty(0, frames.features.width)

    def feed(self, chunk_S: Tensor) -> Tensor:
        """(T, F) raw features of the tokens that new samples complete.

        Raises:
            BadSample: a sample is not finite, or they are not float32 of one channel.
        """
        if not len(chunk_S):
            return torch.empty(0, self._features)
        check_waveform(chunk_S, "the stream")
        return self._stacked(self._frames.feed(self._resample.feed(chunk_S)))

    def flush(self) -> Tensor:
        """(T, F) raw features of the remaining tokens, at the end of the sound."""
        last = [self._frames.feed(self._resample.flush()), self._frames.flush()]
        return self._stacked(torch.cat(last))

    def _stacked(self, x_LW: Tensor) -> Tensor:
        frames = torch.cat([self._open, x_LW])
        stack = self._features // frames.shape[1]
        complete = len(frames) // stack * stack
        self._open = frames[complete:].clone()
        return frames[:complete].reshape(-1, self._features)
