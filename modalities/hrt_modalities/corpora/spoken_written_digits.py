"""Spoken with written digits: a sound of FSDD and an image of MNIST with the same digit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer

from ..audio.audio import Audio
from ..audio.augment import Augmentation, trimmed
from ..common.media import limit_towers
from ..common.splits import check_split
from ..vision.memory import MnistConfig
from .fsdd import FsddConfig

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class SpokenWrittenConfig(DatasetConfig):
    """Sounds (``audio``) with pictures (``image``) and words (``text``) of the same digit."""

    type: Literal["spoken_written_digits"]
    parts: ClassVar[tuple[str, ...]] = ("audio", "image", "text")
    supplies: ClassVar[Mapping[str, tuple[str, ...]]] = {"audio": ("words",)}
    sounds: Path
    """The folder of FSDD."""
    pictures: Path
    """The folder that torchvision calls root of MNIST."""
    leave_out: str | None = None
    """A speaker whose takes are the test set, and not in train."""
    trim_db: PositiveFloat | None = None
    """Trim both ends that are so many decibels quieter than the loudest part; nothing when absent."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training sounds, in order."""

    def prepare(self, part: str, value: Any) -> Any:
        """Makes a sound one word without its quiet ends, like those of the dataset."""
        if not isinstance(value, Audio):
            return value
        audio = replace(value, boundaries={"words": (0.0,)} | dict(value.boundaries))
        return audio if self.trim_db is None else trimmed(audio, self.trim_db)

    def build(self, split: str) -> SpokenWritten:
        """The sounds of a split, in training each with a random picture, otherwise always with the same one.

        Raises:
            ConfigError: the data is missing or broken.
        """
        check_split(split)
        sounds = FsddConfig(
            type="fsdd", root=self.sounds, label="word", leave_out=self.leave_out,
            trim_db=self.trim_db, augment=self.augment,
        ).build(split)  # fmt: skip
        pictures = MnistConfig(type="mnist", root=self.pictures).build(split)
        return SpokenWritten(sounds, pictures, [WORDS[label] for label in pictures.labels], random=split == "train")


class SpokenWritten(Dataset):
    """Pairs.

    Args:
        sounds: with the word of the digit as label.
        pictures: of digits.
        words: of the pictures.
        random: whether a sound has a random picture.
    """

    def __init__(self, sounds: Dataset, pictures: Dataset, words: list[str], *, random: bool) -> None:
        self.sounds, self.pictures, self.random = sounds, pictures, random
        self.classes = WORDS
        self.indices = {word: [index for index, label in enumerate(words) if label == word] for word in WORDS}
        if empty := [word for word, indices in self.indices.items() if not indices]:
            raise ConfigError(f"there is no picture of {empty[0]!r}")

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Sample:
        """A sound, a picture and the word."""
        sound = self.sounds[index]
        word = str(sound.label)
        indices = self.indices[word]
        chosen = int(torch.randint(len(indices), ())) if self.random else index % len(indices)
        value = {"audio": sound.value, "image": self.pictures[indices[chosen]].value, "text": word}
        return Sample(value, word, sound.name)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits the sounds and the pictures."""
        limit_towers({"audio": self.sounds, "image": self.pictures}, tokenizers)

    def name(self, index: int) -> str:
        """The name of the sound."""
        return self.sounds.name(index)

    def class_of(self, index: int) -> str | None:
        """The digit's word."""
        return self.sounds.class_of(index)

    def describe(self, index: int) -> Mapping[str, str]:
        """The word."""
        return {"word": str(self.sounds.class_of(index))}

    def file_of(self, index: int, tower: str) -> Path | None:
        """The file of a sound."""
        return self.sounds.file_of(index, tower) if tower == "audio" else None
