"""Encoders of waveforms that other libraries have trained, as the embedding of sounds.

A raw token of such a tokenizer is the window of samples that the encoder makes a frame of: its receptive field,
centred on the time of the token. The sound is put together again from the windows, and is thus padded with half of the
overlap at both ends and with zeros to whole tokens.

Shapes: T tokens, W samples of a window, B sounds, S samples, L frames, E width of the encoder, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from hrt_mm.core.tokens import Tokens

from ..common.pretrained import StemEncoder
from ..common.windows import overlapping
from .frames import Framing

_BATCH_SECONDS = 480.0
"""Limit of the sound that is encoded in one call."""
_LOUDNESS = 10 ** (-30 / 20)
"""Root mean square that quieter sounds are raised to for speaker encoders: -30 dB of full scale."""


class PerDevice:
    """A constant tensor on any device. It is no buffer, since a model that is built without data would be left without.

    Args:
        value: on the CPU.
    """

    def __init__(self, value: Tensor) -> None:
        self._values = {value.device: value}

    def __call__(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        if device not in self._values:
            self._values[device] = next(iter(self._values.values())).to(device)
        return self._values[device]


class SoundEncoder(nn.Module, ABC):
    """Encodes waveforms of the length of whole tokens.

    Args:
        encoder: of a library.
        width: of its frames.
        framing: of its frames in the sound.
        masks: whether sounds of different lengths may share a batch, because padding has no effect on them.
    """

    def __init__(self, encoder: StemEncoder, width: int, framing: Framing, masks: bool = False) -> None:
        super().__init__()
        self.encoder, self.width, self.framing, self.masks = encoder, width, framing, masks

    @abstractmethod
    def encode(self, waves_BS: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """(B, L, E) frames.

        Args:
            waves_BS: sounds, padded with zeros.
            lengths: in samples, if they differ.
        """

    def prepared(self, waveform_S: Tensor) -> Tensor:
        """A whole sound, normalized as in the training of the encoder."""
        return waveform_S

    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """(L, E) frames of each sound. The sounds do not affect each other."""
        frames: dict[int, Tensor] = {}
        for batch in self._batches([len(each) for each in waveforms]):
            lengths = [len(waveforms[index]) for index in batch]
            waves_BS = pad_sequence([waveforms[index] for index in batch], batch_first=True)
            encoded_BLE = self.encode(waves_BS, lengths if min(lengths) < max(lengths) else None)
            for index, length, frames_LE in zip(batch, lengths, encoded_BLE, strict=True):
                frames[index] = frames_LE[: self._frames(length)]
        return [frames[index] for index in range(len(waveforms))]

    def _frames(self, samples: int) -> int:
        return (samples - self.framing.window) // self.framing.hop + 1

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of sounds that are encoded together, of similar lengths."""
        limit = _BATCH_SECONDS * self.framing.rate
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            longest = lengths[batches[-1][0]] if batches else 0
            fits = longest == lengths[index] or (self.masks and bool(batches))
            if fits and longest * (len(batches[-1]) + 1) <= limit:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches


class SoundEncoderEmbedding(nn.Module):
    """The frames of an encoder, mapped to the width of the model.

    Args:
        encoder: of the sounds.
        dim: width.
        longest: limit of the tokens that are encoded at once; longer sounds are encoded in overlapping windows.
    """

    def __init__(self, encoder: SoundEncoder, dim: int, longest: int) -> None:
        super().__init__()
        self.encoder, self.longest = encoder, longest
        self.project = nn.Linear(encoder.width, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T, W) to (T, D)."""
        return tokens.with_x(self.project(self.features(tokens).to(self.project.weight.dtype)))

    def features(self, tokens: Tokens) -> Tensor:
        """(T, E) frames of the encoder, read from the cache where it has them."""
        overlap = self.encoder.framing.window - self.encoder.framing.hop
        sounds = [
            self.encoder.prepared(torch.cat([x_TW[0], x_TW[1:, overlap:].flatten()]))
            for x_TW in tokens.split()
            if len(x_TW)
        ]
        if not sounds:
            return tokens.x.new_zeros(0, self.encoder.width)
        # Frames of long sounds also depend on the size of the windows.
        inputs = [torch.cat([sound_S, sound_S.new_tensor([self.longest])]) for sound_S in sounds]
        encode = self.encoder.encoder.cached
        return torch.cat(encode(inputs, lambda indices: self._encoded([sounds[index] for index in indices])))

    def _encoded(self, sounds: Sequence[Tensor]) -> list[Tensor]:
        """(L, E) frames of whole sounds, in windows."""
        hop, overlap = self.encoder.framing.hop, self.encoder.framing.window - self.encoder.framing.hop
        plans = [overlapping((len(sound_S) - overlap) // hop, self.longest) for sound_S in sounds]
        waveforms = [
            sound_S[window.first * hop : window.last * hop + overlap]
            for sound_S, windows in zip(sounds, plans, strict=True)
            for window in windows
        ]
        frames = iter(self.encoder(waveforms))
        return [torch.cat([next(frames)[window.core] for window in windows]) for windows in plans]


class RowwiseConvolutions(nn.Module):
    """The convolutions of an encoder, applied to each sound of a padded batch alone.

    wav2vec 2.0 and HuBERT of size base normalize each channel over the time of the batch, so that padding would change
    their frames.

    Args:
        convolutions: of the encoder.
        channels_last: whether they return (B, L, C) and lengths, as in torchaudio, instead of (B, C, L).
    """

    def __init__(self, convolutions: nn.Module, channels_last: bool) -> None:
        super().__init__()
        self.convolutions, self.channels_last = convolutions, channels_last
        self.lengths: Sequence[int] | None = None
        """Of the sounds of the next batch in samples, if they differ."""

    def forward(self, waves_BS: Tensor, *arguments: Any) -> Any:
        """What the convolutions return."""
        if self.lengths is None:
            return self.convolutions(waves_BS, *arguments)
        rows = [waves_BS[index : index + 1, :length] for index, length in enumerate(self.lengths)]
        if not self.channels_last:
            return pad_sequence([self.convolutions(row)[0].T for row in rows], batch_first=True).transpose(1, 2)
        frames = [self.convolutions(row, None)[0][0] for row in rows]
        counts = torch.tensor([len(each) for each in frames], device=waves_BS.device)
        return pad_sequence(frames, batch_first=True), counts


class WaveEncoder(SoundEncoder):
    """An encoder of samples, with convolutions before its transformer."""

    @contextmanager
    def _convolutions_alone(self, lengths: Sequence[int]) -> Iterator[None]:
        """Inside, the convolutions are applied to each sound of a padded batch alone, if that matters."""
        convolutions = self.encoder.encoder.feature_extractor
        if not isinstance(convolutions, RowwiseConvolutions):
            yield
            return
        convolutions.lengths = lengths
        try:
            yield
        finally:
            convolutions.lengths = None


class TransformersWaves(WaveEncoder):
    """wav2vec 2.0, HuBERT, WavLM and their relatives in transformers.

    Args:
        encoder: the model.
        framing: of its frames.
        masks: as in :class:`SoundEncoder`.
        normalize: subtract the mean of a sound and divide by its standard deviation.
    """

    def __init__(self, encoder: StemEncoder, framing: Framing, masks: bool, normalize: bool) -> None:
        model: Any = encoder.encoder
        super().__init__(encoder, model.config.hidden_size, framing, masks)
        self.normalize = normalize
        if masks and model.config.feat_extract_norm == "group":
            model.feature_extractor = RowwiseConvolutions(model.feature_extractor, channels_last=False)

    def prepared(self, waveform_S: Tensor) -> Tensor:
        """The sound, normalized if the encoder was trained so."""
        if not self.normalize:
            return waveform_S
        return (waveform_S - waveform_S.mean()) / (waveform_S.var(correction=0) + 1e-7).sqrt()

    def encode(self, waves_BS: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """(B, L, E) frames."""
        if lengths is None:
            return self.encoder(waves_BS).last_hidden_state
        steps_S = torch.arange(waves_BS.shape[1], device=waves_BS.device)
        mask_BS = (steps_S < torch.tensor(lengths, device=waves_BS.device)[:, None]).long()
        with self._convolutions_alone(lengths):
            return self.encoder(waves_BS, attention_mask=mask_BS).last_hidden_state


class TransformersWhisper(SoundEncoder):
    """The encoder of Whisper in transformers, which reads the log-mel bands of a sound that is padded to 30 s.

    Its frames are centred on multiples of the stride. One of silence is put before the sound, and half of it is left
    out, so that they are centred on tokens.

    Args:
        encoder: the encoder.
        framing: of its frames.
        extractor: the library's, for the settings of the bands.
    """

    def __init__(self, encoder: StemEncoder, framing: Framing, extractor: Any) -> None:
        model: Any = encoder.encoder
        super().__init__(encoder, model.config.d_model, framing)
        self.samples, self.size, self.hop = extractor.n_samples, extractor.n_fft, extractor.hop_length
        self._filters = PerDevice(torch.from_numpy(extractor.mel_filters).float())

    def forward(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """(L, E) frames of each sound."""
        before = self.framing.hop // 2
        padded = [functional.pad(each, (before, self.samples - before - len(each))) for each in waveforms]
        frames = super().forward(padded)
        return [
            frames_LE[1 : 1 + len(each) // self.framing.hop] for frames_LE, each in zip(frames, waveforms, strict=True)
        ]

    def encode(self, waves_BS: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """(B, L, E) frames."""
        return self.encoder(self.bands(waves_BS)).last_hidden_state

    def bands(self, waves_BS: Tensor) -> Tensor:
        """(B, F, 2 L) log-mel bands, as those of the library."""
        window = torch.hann_window(self.size, device=waves_BS.device)
        spectrum = torch.stft(waves_BS.float(), self.size, self.hop, window=window, return_complex=True)[..., :-1]
        power_BFL = self._filters(waves_BS.device).T @ (spectrum.real.square() + spectrum.imag.square())
        log_BFL = power_BFL.clamp(min=1e-10).log10()
        return (torch.maximum(log_BFL, log_BFL.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class TorchaudioWaves(WaveEncoder):
    """wav2vec 2.0, HuBERT and WavLM in torchaudio.

    Args:
        encoder: the model.
        width: of its frames.
        framing: of its frames.
        masks: as in :class:`SoundEncoder`.
        group: whether the first convolution normalizes over time.
        normalize: subtract the mean of a sound and divide by its standard deviation.
    """

    def __init__(
        self, encoder: StemEncoder, width: int, framing: Framing, *, masks: bool, group: bool, normalize: bool
    ) -> None:
        super().__init__(encoder, width, framing, masks)
        self.normalize = normalize
        if masks and group:
            model: Any = encoder.encoder
            model.feature_extractor = RowwiseConvolutions(model.feature_extractor, channels_last=True)

    def prepared(self, waveform_S: Tensor) -> Tensor:
        """The sound, normalized if the encoder was trained so."""
        return functional.layer_norm(waveform_S, waveform_S.shape) if self.normalize else waveform_S

    def encode(self, waves_BS: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """(B, L, E) frames."""
        if lengths is None:
            return self.encoder(waves_BS)[0]
        with self._convolutions_alone(lengths):
            return self.encoder(waves_BS, torch.tensor(lengths, device=waves_BS.device))[0]


class VoiceEncoder(nn.Module):
    """The network of Resemblyzer: an LSTM over mel bands whose last state becomes the vector of a speaker.

    From "Generalized end-to-end loss for speaker verification" (arXiv 1710.10467).
    """

    def __init__(self, bands: int = 40, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(bands, width, layers, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, bands_BLF: Tensor) -> Tensor:
        """(B, L, E) vectors of the sound up to each frame, of length 1."""
        states_BLE = self.lstm(bands_BLF)[0]
        return functional.normalize(functional.relu(self.linear(states_BLE)), dim=-1)


class ResemblyzerEncoder(SoundEncoder):
    """Resemblyzer's encoder of speakers. A frame depends on those before it alone, so padding has no effect.

    Args:
        encoder: a :class:`VoiceEncoder`.
        framing: of its frames.
    """

    def __init__(self, encoder: StemEncoder, framing: Framing) -> None:
        from torchaudio.functional import melscale_fbanks

        model: Any = encoder.encoder
        super().__init__(encoder, model.linear.out_features, framing, masks=True)
        bands_KF = melscale_fbanks(
            framing.window // 2 + 1, 0, framing.rate / 2, model.lstm.input_size, framing.rate, "slaney", "slaney"
        )
        self._filters = PerDevice(bands_KF)

    def prepared(self, waveform_S: Tensor) -> Tensor:
        """The sound, raised to the loudness of the training if it is quieter."""
        loudness = waveform_S.square().mean().sqrt()
        return waveform_S * (_LOUDNESS / loudness.clamp(min=1e-8)).clamp(min=1)

    def encode(self, waves_BS: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """(B, L, E) frames."""
        return self.encoder(self.bands(waves_BS))

    def bands(self, waves_BS: Tensor) -> Tensor:
        """(B, L, F) power in mel bands."""
        windows_BLW = waves_BS.unfold(1, self.framing.window, self.framing.hop)
        spectrum = torch.fft.rfft(windows_BLW.float() * torch.hann_window(self.framing.window, device=waves_BS.device))
        return (spectrum.real.square() + spectrum.imag.square()) @ self._filters(waves_BS.device)
