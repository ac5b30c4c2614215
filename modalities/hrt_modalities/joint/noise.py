"""Noise under a sound at a given ratio: white, or the babble of other talkers.

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
KEPT = 1000
"""Sentences that stay in memory, so that mixing them again reads no file."""


@dataclass(frozen=True)
class Babble:
    """Several sentences at once.

    Args:
        sentences: whose sounds are mixed.
        talkers: how many at a time.
    """

    sentences: Dataset
    talkers: int
    _cache: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, sound: Audio, generator: torch.Generator, but: int | None) -> Tensor:
        """(S,) babble of mean power 1, as long as a sound.

        Args:
            sound: that it is laid under.
            generator: draws the sentences, and where each begins.
            but: the place of a sentence that is left out.
        """
        order = torch.randperm(len(self.sentences), generator=generator).tolist()
        chosen = [index for index in order if index != but][: self.talkers]
        total_S = torch.stack([self._voice(index, sound, generator) for index in chosen]).sum(0)
        return total_S / total_S.square().mean().sqrt().clamp(min=1e-8)

    def _voice(self, index: int, sound: Audio, generator: torch.Generator) -> Tensor:
        """One talker: a sentence over and over, from a random moment on, of power 1 while it lasts."""
        wave_S = self._sentence(index, sound.rate)
        first = int(torch.randint(len(wave_S), (), generator=generator))
        length = len(sound.waveform_S)
        if first + length <= len(wave_S):
            return wave_S[first : first + length]
        return wave_S.roll(-first).repeat(-(-length // len(wave_S)))[:length]

    def _sentence(self, index: int, rate: int) -> Tensor:
        """(S,) a sentence at a rate, of power 1."""
        if (index, rate) in self._cache:
            return self._cache[index, rate]
        audio = self.sentences[index].value
        wave_S = resampled(audio.waveform_S, audio.rate, rate)
        wave_S = wave_S / wave_S.square().mean().sqrt().clamp(min=1e-8)
        if len(self._cache) < KEPT:
            self._cache[index, rate] = wave_S
        return wave_S


def white(sound: Audio, generator: torch.Generator) -> Tensor:
    """(S,) white noise of power 1, as long as a sound."""
    return torch.randn(sound.waveform_S.shape, generator=generator)


def under(sound: Audio, noise_S: Tensor, decibels: float) -> Audio:
    """A sound with noise of power 1 laid under it, at a ratio of their powers."""
    power = sound.waveform_S.square().mean() * 10 ** (-decibels / 10)
    return replace(sound, waveform_S=sound.waveform_S + noise_S * power.sqrt())


def one_of(kinds: Sequence[Kind]) -> Kind:
    """One kind at random; the only one without a draw."""
    return kinds[0] if len(kinds) == 1 else kinds[int(torch.randint(len(kinds), ()))]
