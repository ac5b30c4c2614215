"""GRID in three modalities: the sound, the silent video, and the words of each sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Piece, Sample
from hrt_mm.data.tokenizer import Tokenizer

from ...audio.audio import Audio
from ...audio.intervals import SILENCE
from ...audio.recordings import Recording, Recordings
from ...common.media import limit_towers
from ...common.splits import check_split
from ...joint.noise import Babble, Kind, add_noise, one_of, white
from ...video.cache import CacheConfig
from ...video.clips import Clip, Clips
from .audio import GridAudioConfig
from .video import GridVideoConfig

MARGIN_S = 0.1


class GridTriplesConfig(DatasetConfig):
    """Sentences or single words as sound (``audio``), video of the mouth or face (``video``) and ``text``."""

    type: Literal["grid_triples"]
    parts: ClassVar[tuple[str, ...]] = ("audio", "video", "text")
    root: Path
    """Folder with ``index.tsv``, ``words.tsv``, the recordings and the videos."""
    view: Literal["mouth", "face"] = "mouth"
    """Content of the videos."""
    use: tuple[Literal["audio", "video", "text"], ...] = ("audio", "video", "text")
    """Modalities of the samples; others are not decoded."""
    unit: Literal["sentence", "word"] = "sentence"
    """Unit of samples: a sentence, or a word that is cut from one."""
    margin_s: NonNegativeFloat = MARGIN_S
    """Seconds before and after a word that belong to its sample."""
    label: Literal["sentence", "word", "command", "colour", "preposition", "letter", "digit", "adverb"] = "sentence"
    """The label, for contrastive learning and classification: the sentence, one of its six words, or the ``word`` that
    is the sample."""
    cache: CacheConfig | None = None
    """Cache of decoded frames; none when absent."""

    train_noise_db: tuple[float, float] | None = None
    """Least and largest signal-to-noise ratio of training sounds in decibels; no noise when absent."""
    train_noise: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("white",)
    """Kinds of this noise, chosen at random: ``white``, or ``babble`` of other training sentences."""
    noise_db: float | None = None
    """Signal-to-noise ratio of other sounds in decibels, with the same noise each time; no noise when absent."""
    noise: Kind = "white"
    """Kind of this noise."""
    talkers: PositiveInt = 4
    """Number of sentences in babble."""

    @model_validator(mode="after")
    def _used(self) -> GridTriplesConfig:
        if self.train_noise_db is None and self.train_noise != ("white",):
            raise ValueError("train_noise has no effect without train_noise_db; give it, such as [-10, 30]")
        if self.noise_db is None and self.noise != "white":
            raise ValueError("noise has no effect without noise_db; give it, such as -5")
        if (self.unit == "word") != (self.label == "word"):
            raise ValueError(f"unit: {self.unit} has no label: {self.label}; unit: word goes with label: word alone")
        if self.unit != "word" and self.margin_s != MARGIN_S:
            raise ValueError("margin_s has no effect on whole sentences; drop it, or set unit: word")
        return self

    def build(self, split: str) -> GridTriples:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        sound = GridAudioConfig(type="grid", root=self.root, label="text").build(split)
        videos = GridVideoConfig(type="grid_video", root=self.root, label="text", view=self.view, cache=self.cache)
        video = videos.build(split)
        assert isinstance(sound, Recordings)
        if len(sound) != len(video):
            raise ConfigError(f"data.root {self.root} has {len(sound)} sounds and {len(video)} videos for {split}")
        training = split == "train"
        # Babble is always of training sentences.
        voices = sound if training else GridAudioConfig(type="grid", root=self.root, label="text").build("train")
        babble = Babble(voices, self.talkers)
        if self.unit == "sentence":
            return GridTriples(self, sound, video, range(len(sound)), babble, training=training)
        return GridTriples(self, *_words_of(sound, video, self.margin_s), babble, training=training)

    def plain(self, split: str) -> GridTriples:
        """The sentences of a split without noise."""
        return self.model_copy(update={"train_noise_db": None, "noise_db": None}).build(split)


LAST_WORD = 1.0
"""Duration in seconds of a word without a silence after it."""
SLOTS = ("command", "colour", "preposition", "letter", "digit", "adverb")


class GridTriples(Dataset):
    """Sentences, or words of them.

    Args:
        config: of the dataset.
        sound: their sounds.
        video: their videos, in the same order.
        origin: for each, the index of its sentence.
        babble: of other sentences.
        training: whether noise is different each time.
    """

    def __init__(
        self,
        config: GridTriplesConfig,
        sound: Recordings,
        video: Dataset,
        origin: Sequence[int],
        babble: Babble,
        *,
        training: bool,
    ) -> None:
        self.config, self.sound, self.video, self.babble, self.training = config, sound, video, babble, training
        self.origin = origin
        if config.label == "sentence":
            self.classes = None
        elif config.label == "word":
            self.classes = tuple(word for words in _WORDS.values() for word in words)
        else:
            self.classes = _WORDS[config.label]

    def __len__(self) -> int:
        return len(self.sound)

    def __getitem__(self, index: int) -> Sample:
        """The used modalities of a sentence."""
        use = self.config.use
        parts = {"audio": self.sound, "video": self.video}
        samples = {name: parts[name][index] for name in use if name != "text"}
        first = next(iter(samples.values()), None) or self.sound[index]
        text = str(first.label)
        value: dict[str, Any] = {name: sample.value for name, sample in samples.items()} | (
            {"text": text} if "text" in use else {}
        )
        if "audio" in value:
            value["audio"] = self._noisy(value["audio"], index)
        label = self.config.label
        if label == "word":
            return Sample(value, text, first.name)
        target = text if label == "sentence" else text.split()[SLOTS.index(label)]
        return Sample(value, target, first.name, {"words": self._words(index, text, first.name)})

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits the sounds and the videos."""
        limit_towers({"audio": self.sound, "video": self.video}, tokenizers)

    def _words(self, index: int, sentence: str, name: str) -> tuple[Piece, ...]:
        """The position of each word in sound, video and text, without silences."""
        timed, words = _timed(self.sound.items[index]), sentence.split()
        if [label for _, _, label in timed] != words:
            raise BadSample(name, f"is {sentence!r}, but words.tsv has other words; mend it")
        start_bytes = accumulate((len(word) + 1 for word in words), initial=0)
        return tuple(
            Piece(word, {"audio": (start, end), "video": (start, end), "text": (start_byte, start_byte + len(word))})
            for (start, end, word), start_byte in zip(timed, start_bytes, strict=False)
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
            return add_noise(sound, white(sound, generator), decibels)
        return add_noise(sound, self.babble(sound, generator, self.origin[index] if self.training else None), decibels)

    def describe(self, index: int) -> Mapping[str, str]:
        """The sentence, or the word."""
        return {self.config.unit: str(self.sound.items[index].target)}

    def file_of(self, index: int, tower: str) -> Path | None:
        """The file of a sound or a video."""
        parts = {"audio": self.sound, "video": self.video}
        return parts[tower].file_of(index, tower) if tower in parts else None


def _timed(item: Recording) -> list[tuple[float, float, str]]:
    """Start, end and label of each word of a sentence, in seconds, without silences."""
    starts = item.boundaries["words"]
    ends = (*starts[1:], starts[-1] + LAST_WORD)
    return [word for word in zip(starts, ends, item.labels["words"], strict=True) if word[2] != SILENCE]


def _words_of(sound: Recordings, video: Clips, margin: float) -> tuple[Recordings, Clips, list[int]]:
    """The words of sentences as sounds and as videos, each with the index of its sentence."""
    sounds, clips, origin = [], [], []
    for index, (recording, clip) in enumerate(zip(sound.items, video.items, strict=True)):
        samples, rate = sound.shape(index)
        for start, end, word in _timed(recording):
            begin, end = max(0.0, start - margin), min(end + margin, samples / rate)
            sounds.append(Recording(recording.name, word, offset=begin, duration=end - begin))
            clips.append(Clip(clip.name, word, begin, end))
            origin.append(index)
    return Recordings(sound.home, sounds, None), Clips(video.home, clips, None, video.reading), origin


_WORDS: dict[str, tuple[str, ...]] = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple("abcdefghijklmnopqrstuvxyz"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
"""The words of the grammar, which has no letter w."""
