"""Noise at a given signal-to-noise ratio: white, or babble of other speakers.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hrt_mm.data.dataset import Dataset

from ..audio.audio import Audio
from ..audio.resample import resampled

Kind = Literal["white", "babble"]
CACHED = 1000
"""Sentences that are cached in memory."""


@dataclass(frozen=True)
class Babble:
    """A mixture of sentences.

    Args:
        sentences: a dataset of sounds.
        talkers: number of sentences at a time.
    """

    sentences: Dataset
    talkers: int
    _cache: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, sound: Audio, generator: torch.Generator, exclude: int | None) -> Tensor:
        """(S,) babble of mean power 1, as long as a sound.

        Args:
            sound: that it will be added to.
            generator: draws the sentences, and the position at which each begins.
            exclude: index of a sentence that is not used.
        """
        order = torch.randperm(len(self.sentences), generator=generator).tolist()
        chosen = [index for index in order if index != exclude][: self.talkers]
        length = len(sound.waveform_S)
        voices = []
        for index in chosen:
            # One talker: a sentence repeated from a random position on, with the power 1 of a single sentence.
            wave_S = self._sentence(index, sound.rate)
            first = int(torch.randint(len(wave_S), (), generator=generator))
            if first + length > len(wave_S):
                wave_S = wave_S.roll(-first).repeat(-(-length // len(wave_S)))
                first = 0
            voices.append(wave_S[first : first + length])
        total_S = torch.stack(voices).sum(0)
        return total_S / total_S.square().mean().sqrt().clamp(min=1e-8)

    def _sentence(self, index: int, rate: int) -> Tensor:
        """(S,) a sentence at a rate, scaled to power 1."""
        if (index, rate) in self._cache:
            return self._cache[index, rate]
        audio = self.sentences[index].value
        wave_S = resampled(audio.waveform_S, audio.rate, rate)
        wave_S = wave_S / wave_S.square().mean().sqrt().clamp(min=1e-8)
        if len(self._cache) < CACHED:
            self._cache[index, rate] = wave_S
        return wave_S


def white(sound: Audio, generator: torch.Generator) -> Tensor:
    """(S,) white noise of power 1, as long as a sound."""
    return torch.randn(sound.waveform_S.shape, generator=generator)


def add_noise(sound: Audio, noise_S: Tensor, decibels: float) -> Audio:
    """Adds noise of power 1 to a sound at a signal-to-noise ratio in decibels."""
    power = sound.waveform_S.square().mean() * 10 ** (-decibels / 10)
    return replace(sound, waveform_S=sound.waveform_S + noise_S * power.sqrt())


def one_of(kinds: Sequence[Kind]) -> Kind:
    """One kind at random, without a draw if there is only one."""
    return kinds[0] if len(kinds) == 1 else kinds[int(torch.randint(len(kinds), ()))]
