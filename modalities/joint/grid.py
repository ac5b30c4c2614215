"""GRID in three modalities at once: the sound, the silent video, and the words of each sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from hrt_mm.errors import BadSample, ConfigError
from hrt_mm.modality import Dataset, DatasetConfig
from hrt_mm.sample import Piece, Sample

from ..audio.alignments import SILENCE
from ..audio.audio import Audio
from ..audio.grid import GridConfig as SoundConfig
from ..audio.recordings import Recordings
from ..splits import check_split
from ..video.grid import GridConfig as VideoConfig


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
    """Lowest and highest signal-to-noise ratio of white noise that training sounds get; none when absent."""
    noise_db: float | None = None
    """The signal-to-noise ratio of white noise that other sounds get, the same each time; none when absent."""

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
        return GridTriples(self, sound, video, training=split == "train")

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
        training: whether noise is drawn anew each time.
    """

    def __init__(self, config: GridTriplesConfig, sound: Recordings, video: Dataset, *, training: bool) -> None:
        self.config, self.sound, self.video, self.training = config, sound, video, training
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
        elif not self.training and fixed is not None:
            seed, decibels = index, fixed
        else:
            return sound
        noise_S = torch.randn(sound.waveform_S.shape, generator=torch.Generator().manual_seed(seed))
        power = sound.waveform_S.square().mean() * 10 ** (-decibels / 10)
        return replace(sound, waveform_S=sound.waveform_S + noise_S * power.sqrt())

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
