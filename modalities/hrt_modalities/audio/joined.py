"""Concatenated sounds, on which models of streams are trained so that they do not expect an end.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from pydantic import PositiveInt

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer

from .audio import Audio
from .augment import Transform, chain
from .recordings import Recordings, RecordingsConfig


class JoinableConfig(RecordingsConfig):
    """Settings of all datasets of sounds with transcripts."""

    join: PositiveInt = 1
    """Limit of the sounds that are concatenated at random in training, with their labels, which must be lists. Models
    of streams must not expect each sentence to be the last."""

    def concatenated(self, split: str, sounds: Recordings, *, spaced: bool = False) -> Dataset:
        """The sounds of a split, concatenated in training.

        Args:
            split: which one.
            sounds: its sounds, with their augmentation.
            spaced: labels are characters.

        Raises:
            ConfigError: labels are not lists.
        """
        if self.join == 1:
            return sounds
        if split != "train":
            # The space between words is a class that single words lack.
            sounds.classes = Joined(sounds, self.join, None, spaced=spaced).classes
            return sounds
        sounds.transform = None
        return Joined(sounds, self.join, chain(self.augment), spaced=spaced)


class Joined(Dataset):
    """Each sound followed by a random number of random others. Their labels are lists, which are concatenated too.

    Args:
        sounds: without augmentation.
        most: limit of the number of sounds.
        transform: augmentation of the whole.
        spaced: labels are characters, with a space between two sounds.
    """

    def __init__(self, sounds: Recordings, most: int, transform: Transform | None, *, spaced: bool = False) -> None:
        if any(not isinstance(item.target, tuple) for item in sounds.items):
            raise ConfigError(
                "data.join strings labels together that are lists; set data.label to words, phonemes or characters"
            )
        self.sounds, self.most, self.transform = sounds, most, transform
        self.classes = sounds.classes
        if spaced and self.classes is not None:
            self.classes = tuple(sorted({*self.classes, " "}))
        self._between = [" "] if spaced else []

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Sample:
        """Concatenated sounds that begin with the given one.

        Raises:
            BadSample: one cannot be read, or its rate differs from the first.
        """
        count = int(torch.randint(1, self.most + 1, ()))
        indices = [index, *torch.randint(len(self), (count - 1,)).tolist()]
        samples = [self.sounds[position] for position in indices]
        audio = _concatenated(samples)
        if self.transform is not None:
            audio = self.transform(audio)
        label = [
            unit for position, sample in enumerate(samples) for unit in (self._between * bool(position) + sample.label)
        ]
        return Sample(audio, label, samples[0].name)

    def limit(self, tokenizer: Tokenizer) -> None:
        """Limits the sounds that are joined."""
        self.sounds.limit(tokenizer)

    def shape(self, index: int) -> Sequence[int]:
        """(samples, rate) of the average length."""
        samples, rate = self.sounds.shape(index)
        return samples * (1 + self.most) // 2, rate


def _concatenated(samples: Sequence[Sample]) -> Audio:
    """The concatenated sounds, with the boundaries that all of them have."""
    parts: list[Audio] = [sample.value for sample in samples]
    rate = parts[0].rate
    for sample in samples:
        if sample.value.rate != rate:
            raise BadSample(
                sample.name, f"has {sample.value.rate} samples a second, the sound that it is joined with {rate}"
            )
    before = list(accumulate((part.seconds for part in parts[:-1]), initial=0.0))
    shared = [name for name in parts[0].boundaries if all(name in part.boundaries for part in parts)]
    boundaries = {
        name: tuple(first + start for first, part in zip(before, parts, strict=True) for start in part.boundaries[name])
        for name in shared
    }
    return Audio(torch.cat([part.waveform_S for part in parts]), rate, boundaries)
