"""Synthetic speech as a dataset: digits or commands in several voices, with the exact times of words and phonemes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.storage import first_mistake, parse_json

from ..common.generated import generated
from ..common.splits import SPLITS, check_split
from .intervals import SILENCE
from .joined import JoinableConfig
from .recordings import Recording, Target
from .synthesis import Line, engine_version, speak

_VERSION = 1
"""Must be raised when the same settings give other speech, so that no stale cache is read."""
_RATE = 16_000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMANDS = (
    ("open", "close", "turn", "move", "stop"),
    ("red", "green", "blue", "white"),
    ("door", "window", "lamp", "table", "box"),
    DIGITS,
    ("now", "later", "again", "please"),
)
"""Sentences have one word of each group, in this order."""


class SyntheticConfig(JoinableConfig):
    """Synthetic speech by eSpeak NG (the extra ``speech``), in several voices, rates and pitches.

    Sounds have the boundaries ``words`` and ``phonemes``, including silences. The voices of the test split are not in
    train.
    """

    type: Literal["synthetic_speech"]
    content: Literal["digit", "digits", "commands"] = "digits"
    """One digit, a string of digits, or sentences of five words from a small grammar."""
    digits: tuple[PositiveInt, PositiveInt] = (2, 6)
    """Fewest and most digits of a string."""
    label: Literal["word", "voice", "text", "words", "segments", "phonemes", "phoneme_segments", "characters"] = "words"
    """The label: the class of a single digit or of the voice; its text; or its words, phonemes or
    characters. ``segments`` and ``phoneme_segments`` have ``sil`` for each silence: one label for each group
    of the boundary ``words`` or ``phonemes``."""
    voices: tuple[str, ...] = ("en-us+m1", "en-us+m3", "en-us+f1", "en-us+f3", "en+m5", "en-gb-x-rp+f2", "en-us+m7")
    """Voices of eSpeak to train and validate on."""
    variants: tuple[str, ...] = ()
    """Variants of eSpeak in which each of ``voices`` speaks: with ``[m1, f1]``, the voice ``en`` becomes ``en+m1`` and
    ``en+f1``."""
    test_voices: tuple[str, ...] = ("en-us+m2", "en-gb-x-rp+f4", "en-gb-scotland+m6")
    """Voices to test on."""
    words_per_minute: tuple[PositiveInt, PositiveInt] = (130, 220)
    """Slowest and fastest speech."""
    pitch: tuple[NonNegativeInt, NonNegativeInt] = (25, 75)
    """Lowest and highest pitch, from 0 to 99 of what a voice can do."""
    seed: NonNegativeInt = 0
    """Draws what is said, and how."""
    train: PositiveInt = 1200
    """Lines to train on."""
    valid: PositiveInt = 100
    """Lines for validation."""
    test: PositiveInt = 200
    """Lines to test on."""
    cache: Path | None = None
    """Folder where speech is kept once made; ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm`` when absent."""

    @model_validator(mode="after")
    def _possible(self) -> SyntheticConfig:
        for key, low, high in (("words_per_minute", 80, 450), ("pitch", 0, 99), ("digits", 1, 100)):
            first, last = getattr(self, key)
            if not low <= first <= last <= high:
                raise ValueError(f"{key} goes from least to largest within {low} to {high}, got {first} to {last}")
        if not self.voices or not self.test_voices:
            raise ValueError("voices and test_voices each need one voice or more")
        if self.label == "word" and self.content != "digit":
            raise ValueError(f"label: word is one word, but content: {self.content} has several; take words or text")
        if self.label == "voice" and not set(self.test_voices) <= set(self.trained_voices):
            raise ValueError("label: voice needs test_voices among the voices that are trained on")
        if self.variants and (varied := [voice for voice in self.voices if "+" in voice]):
            raise ValueError(f"voices {', '.join(varied)} have a variant already; drop it, or drop variants")
        default = SyntheticConfig.model_fields
        if self.content != "digits" and self.digits != default["digits"].default:
            raise ValueError(f"digits has no effect with content: {self.content}; drop it")
        if self.val != default["val"].default:
            raise ValueError("val has no effect: valid counts the lines for validation; drop val")
        return self

    @property
    def trained_voices(self) -> tuple[str, ...]:
        """The voices to train and validate on, with their variants."""
        if not self.variants:
            return self.voices
        return tuple(f"{voice}+{variant}" for variant in self.variants for voice in self.voices)

    def build(self, split: str) -> Dataset:
        """The lines of a split. The first call generates the speech of all splits.

        Raises:
            ConfigError: the engine is not installed or has no such voice, or the cache cannot be written.
        """
        check_split(split)
        folder = made_speech({name: self.lines(name) for name in SPLITS}, self.cache, "data.cache")
        recordings = {
            name: [recording(name, row, self._target(row)) for row in spoken(folder, name)] for name in SPLITS
        }
        sounds = self.dataset(split, folder, recordings, texts=self.label == "text")
        return self.concatenated(split, sounds, spaced=self.label == "characters")

    def lines(self, split: str) -> list[Line]:
        """The lines of a split."""

        def sentence() -> str:
            if self.content == "commands":
                return " ".join(draw.choice(words) for words in COMMANDS)
            count = 1 if self.content == "digit" else draw.randint(*self.digits)
            return " ".join(draw.choice(DIGITS) for _ in range(count))

        draw = random.Random(f"{self.seed} {split}")
        voices = self.test_voices if split == "test" else self.trained_voices
        count = {"train": self.train, "val": self.valid, "test": self.test}[split]
        return [
            Line(
                sentence(),
                voices[number % len(voices)],
                draw.randint(*self.words_per_minute),
                draw.randint(*self.pitch),
            )
            for number in range(count)
        ]

    def _target(self, row: dict[str, Any]) -> Target:
        if self.label in ("text", "word"):
            return str(row["text"])
        if self.label == "voice":
            return str(row["voice"])
        if self.label == "characters":
            return tuple(row["text"])
        kind = "words" if self.label in ("words", "segments") else "phonemes"
        labels = [label for _, label in row[kind]]
        return tuple(label for label in labels if "segments" in self.label or label != SILENCE)


def made_speech(lines: Mapping[str, Sequence[Line]], home: Path | None, key: str) -> Path:
    """The folder of generated speech, with a sound and a table for each split.

    Args:
        lines: by split.
        home: parent of the folder; the user's cache when absent.
        key: the setting of ``home``, for messages.

    Raises:
        ConfigError: the engine is not installed or has no such voice, or the folder cannot be written.
    """
    plan = f"{_VERSION} {engine_version()} {_RATE} {dict(lines)}"
    return generated("speech", plan, home, lambda folder: speak(lines, _RATE, folder), key)


def recording(split: str, row: Mapping[str, Any], target: Target) -> Recording:
    """The item of a line, with the boundaries ``words`` and ``phonemes``."""
    boundaries = {kind: tuple(start for start, _ in row[kind]) for kind in ("words", "phonemes")}
    labels = {kind: tuple(label for _, label in row[kind]) for kind in ("words", "phonemes")}
    return Recording(f"{split}.wav", target, row["offset"], row["duration"], boundaries, labels=labels)


def spoken(folder: Path, split: str) -> list[dict[str, Any]]:
    """The table of a split: text, voice, position in the sound, and start times of words and phonemes.

    Raises:
        ConfigError: it is broken.
    """
    file = folder / f"{split}.jsonl"
    try:
        lines = file.read_bytes().splitlines()
        rows = [asdict(_ROW.validate_python(parse_json(line, str(file)))) for line in lines]
    except (OSError, ValueError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else error
        raise ConfigError(f"{file} is broken: {reason}; remove its folder, and it is generated again") from error
    if any(first["offset"] >= second["offset"] for first, second in pairwise(rows)):
        raise ConfigError(f"{file} is broken: its lines are not in order; remove its folder, and it is generated again")
    return rows


@dataclass(frozen=True)
class _Row:
    """The fields of a row that are read."""

    text: str
    voice: str
    offset: NonNegativeFloat
    duration: NonNegativeFloat
    words: list[tuple[float, str]]
    phonemes: list[tuple[float, str]]


_ROW = TypeAdapter(_Row)
