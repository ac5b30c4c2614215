"""GRID in three modalities at once: the sound, the silent video, and the words of each sentence."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator

from hrt_mm.errors import BadSample, ConfigError
from hrt_mm.modality import Dataset, DatasetConfig
from hrt_mm.sample import Piece, Sample

from ..audio.alignments import SILENCE
from ..audio.audio import Audio
from ..audio.grid import GridConfig as SoundConfig
from ..audio.recordings import Recordings
from ..splits import check_split
from ..video.grid import GridConfig as VideoConfig
from .noise import Babble, Kind, one_of, under, white


class GridTriplesConfig(DatasetConfig):
    """Sentences as sound (``audio``), video of the mouth or face (``video``) and words (``text``)."""

    type: Literal["grid_triples"]
    parts: ClassVar[tuple[str, ...]] = ("audio", "video", "text")
    root: Path
    """Folder that holds ``index.tsv``, ``words.tsv``, the recordings and the videos."""
    view: Literal["mouth", "face"] = "mouth"
    """What is seen."""
    use: tuple[Literal["audio", "video", "text"], ...] = ("audio", "video", "text")
    """What is read; others are not decoded."""
    label: Literal["sentence", "command", "colour", "preposition", "letter", "digit", "adverb"] = "sentence"
    """What makes samples alike: the whole sentence, or one of its six words, which fused classification tells."""

    train_noise_db: tuple[float, float] | None = None
    """Lowest and highest signal-to-noise ratio of the noise that training sounds get; none when absent."""
    train_noise: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("white",)
    """What noise that is, one of these at random: ``white``, or the ``babble`` of other training sentences."""
    noise_db: float | None = None
    """The signal-to-noise ratio of the noise that other sounds get, the same each time; none when absent."""
    noise: Kind = "white"
    """What noise that is."""
    talkers: PositiveInt = 4
    """Sentences that babble is mixed of."""

    @model_validator(mode="after")
    def _used(self) -> GridTriplesConfig:
        if self.train_noise_db is None and self.train_noise != ("white",):
            raise ValueError("train_noise has no effect without train_noise_db; give it, such as [-10, 30]")
        if self.noise_db is None and self.noise != "white":
            raise ValueError("noise has no effect without noise_db; give it, such as -5")
        return self

    def build(self, split: str) -> GridTriples:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        sound = SoundConfig(type="grid", root=self.root, label="text").build(split)
        video = VideoConfig(type="grid_video", root=self.root, label="text", view=self.view).build(split)
        assert isinstance(sound, Recordings)
        if len(sound) != len(video):
            raise ConfigError(f"data.root {self.root} has {len(sound)} sounds and {len(video)} videos for {split}")
        training = split == "train"
        voices = sound if training else self._voices()
        return GridTriples(self, sound, video, Babble(voices, self.talkers), training=training)

    def _voices(self) -> Dataset:
        """The sounds that babble under other splits is made of."""
        return SoundConfig(type="grid", root=self.root, label="text").build("train")

    def plain(self, split: str) -> GridTriples:
        """The sentences of a split without noise."""
        return self.model_copy(update={"train_noise_db": None, "noise_db": None}).build(split)


LAST_WORD = 1.0
"""Seconds of a word with no silence after it."""
SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")


class GridTriples(Dataset):
    """Sentences.

    Args:
        config: what is read of them.
        sound: their sounds.
        video: their videos, in the same order.
        babble: what makes noise of other sentences.
        training: whether noise is drawn anew each time.
    """

    def __init__(
        self, config: GridTriplesConfig, sound: Recordings, video: Dataset, babble: Babble, *, training: bool
    ) -> None:
        self.config, self.sound, self.video, self.babble, self.training = config, sound, video, babble, training
        if config.label == "sentence":
            self.classes = None
        else:
            self.classes = _WORDS[config.label]

    def __len__(self) -> int:
        return len(self.sound)

    def __getitem__(self, index: int) -> Sample:
        """What is used of a sentence."""
        use = self.config.use
        parts = {"audio": self.sound, "video": self.video}
        samples = {name: parts[name][index] for name in use if name != "text"}
        first = next(iter(samples.values()), None) or self.sound[index]
        sentence = str(first.label)
        value: dict[str, Any] = {name: sample.value for name, sample in samples.items()} | (
            {"text": sentence} if "text" in use else {}
        )
        if "audio" in value:
            value["audio"] = self._noisy(value["audio"], index)
        label = self.config.label
        target = sentence if label == "sentence" else sentence.split()[SLOTS.index(label)]
        return Sample(value, target, first.name, {"words": self._words(index, sentence, first.name)})

    def _words(self, index: int, sentence: str, name: str) -> tuple[Piece, ...]:
        """Where each word lies in sound, video and text; silences are left out."""
        item, words = self.sound.items[index], sentence.split()
        starts = item.boundaries["words"]
        ends = (*starts[1:], starts[-1] + LAST_WORD)
        timed = [
            (start, end, label)
            for start, end, label in zip(starts, ends, item.labels["words"], strict=True)
            if label != SILENCE
        ]
        if [label for _, _, label in timed] != words:
            raise BadSample(name, f"is {sentence!r}, but words.tsv has other words; mend it")
        places = accumulate((len(word) + 1 for word in words), initial=0)
        return tuple(
            Piece(word, {"audio": (start, end), "video": (start, end), "text": (place, place + len(word))})
            for (start, end, word), place in zip(timed, places, strict=False)
        )

    def _noisy(self, sound: Audio, index: int) -> Audio:
        low_high, fixed = self.config.train_noise_db, self.config.noise_db
        if self.training and low_high is not None:
            seed = int(torch.randint(1 << 31, ()))
            decibels = low_high[0] + float(torch.rand(())) * (low_high[1] - low_high[0])
            kind = one_of(self.config.train_noise)
        elif not self.training and fixed is not None:
            seed, decibels, kind = index, fixed, self.config.noise
        else:
            return sound
        generator = torch.Generator().manual_seed(seed)
        if kind == "white":
            return under(sound, white(sound, generator), decibels)
        return under(sound, self.babble(sound, generator, index if self.training else None), decibels)

    def describe(self, index: int) -> Mapping[str, str]:
        """The sentence."""
        return {"sentence": str(self.sound[index].label)}


_WORDS: dict[str, tuple[str, ...]] = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple("abcdefghijklmnopqrstuvxyz"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
"""The grammar's words; there is no letter w."""
