"""The Free Spoken Digit Dataset: single digits, or concatenated strings of digits with exact boundaries.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from hrt_mm.core.component import Component
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer

from ..audio.audio import Audio
from ..audio.augment import Transform, chain
from ..audio.intervals import SILENCE
from ..audio.recordings import Recording, Recordings, RecordingsConfig, Target
from ..common.folders import need_root
from ..common.splits import check_split
from ..common.tables import Row, read_rows

_COLUMNS = ("path", "word", "arpabet", "speaker", "split")


class StringsConfig(Component):
    """Strings of digits by one speaker, random but reproducible."""

    digits: tuple[PositiveInt, PositiveInt] = (2, 7)
    """Fewest and most digits."""
    gap_s: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.0)
    """Shortest and longest silence before, between and after the digits in seconds; each is a group."""
    train: PositiveInt = 2000
    """Strings to train on."""
    val: PositiveInt = 100
    """Strings to validate on."""
    test: PositiveInt = 300
    """Strings to test on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the strings."""

    @model_validator(mode="after")
    def _ordered(self) -> StringsConfig:
        for key in ("digits", "gap_s"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key} goes from least to largest, got {low:g} to {high:g}; swap them")
        return self


class FsddConfig(RecordingsConfig):
    """Spoken digits of six speakers, each digit fifty times (FSDD). Sounds have the boundary ``words``."""

    type: Literal["fsdd"]
    root: Path
    """Folder with ``index.tsv`` and the recordings that it lists."""
    label: Literal["word", "speaker", "text", "words", "segments", "phonemes", "characters"] = "word"
    """The label: the class of the digit or of the speaker; its text; or its words, phonemes (without
    stress) or characters in order. ``segments`` are the words with ``sil`` for each silence: one for each group of the
    boundary ``words``."""
    leave_out: str | None = None
    """A speaker whose takes are the test set, while train has all takes of the others. When absent, the official split:
    takes 0 to 4 of all speakers are the test set."""
    strings: StringsConfig | None = None
    """Concatenate digits to strings; single digits when absent."""

    @model_validator(mode="after")
    def _possible(self) -> FsddConfig:
        if self.strings is not None and self.label == "word":
            raise ValueError("label: word is one digit, but strings have several; take words, segments or text")
        return self

    def build(self, split: str) -> Recordings | DigitStrings:
        """The sounds of a split.

        Raises:
            ConfigError: the data is missing or broken, or has no such speaker.
        """
        check_split(split)
        need_root(self.root, "index.tsv")
        splits, speakers = self._splits()
        if self.label == "speaker" and self.leave_out is not None:
            raise ConfigError("data.label: speaker cannot be told where data.leave_out keeps the speaker out of train")
        clips = self.dataset(split, self.root, splits, texts=self.label == "text")
        if self.strings is None:
            return clips
        return DigitStrings(self.strings, clips, split, self.label, speakers, chain(self.augment))

    def _splits(self) -> tuple[dict[str, list[Recording]], dict[str, str]]:
        """Items by split, and the speaker of each."""
        splits: dict[str, list[Recording]] = {"train": [], "test": []}
        speakers: dict[str, str] = {}
        for number, row in read_rows(self.root / "index.tsv", _COLUMNS, "the columns of FSDD's index"):
            side = row["split"]
            if side not in splits:
                raise ConfigError(f"{self.root}/index.tsv:{number}: split must be train or test, got {side!r}")
            if self.leave_out is not None:
                side = "test" if row["speaker"] == self.leave_out else "train"
            boundaries = {"words": (0.0,)}
            splits[side].append(Recording(row["path"], _target(row, self.label), boundaries=boundaries))
            speakers[row["path"]] = row["speaker"]
        if self.leave_out is not None and not splits["test"]:
            available = ", ".join(sorted(set(speakers.values())))
            raise ConfigError(f"data.leave_out: there is no speaker {self.leave_out!r}; one of {available}")
        return splits, speakers


class DigitStrings(Dataset):
    """Strings of digits, each by one speaker, concatenated from clips, with the boundary ``words``.

    Args:
        config: of the strings.
        clips: the digits of a split.
        split: which one.
        label: kind of the labels.
        speakers: of the clips, by name.
        transform: augmentation of the training split.
    """

    def __init__(
        self,
        config: StringsConfig,
        clips: Recordings,
        split: str,
        label: str,
        speakers: dict[str, str],
        transform: Transform | None,
    ) -> None:
        self.config, self.split, self.label = config, split, label
        self.transform = transform if split == "train" else None
        # Augmentation applies to whole strings, so that a speaker keeps one speed.
        self.clips = Recordings(clips.home, clips.items, clips.classes, trim_db=clips.trim_db)
        silent = label == "segments" and config.gap_s[1] > 0
        self.classes = (
            tuple(sorted({*clips.classes, *((SILENCE,) if silent else ()), *((" ",) if label == "characters" else ())}))
            if clips.classes is not None
            else None
        )
        self._by_speaker: dict[str, list[int]] = {}
        for index, item in enumerate(clips.items):
            self._by_speaker.setdefault(speakers[item.name], []).append(index)
        self._speakers = sorted(self._by_speaker)

    def __len__(self) -> int:
        return int(getattr(self.config, self.split))

    def __getitem__(self, index: int) -> Sample:
        """A string of digits.

        Raises:
            BadSample: one of its clips cannot be read.
        """
        speaker, positions, gaps = self._draw(index)
        samples = [self.clips[position] for position in positions]
        rate = samples[0].value.rate
        if any(sample.value.rate != rate for sample in samples):
            raise BadSample(samples[0].name, "has another rate than a clip that it is joined with")
        silences = [(torch.zeros(round(gap * rate)), SILENCE) for gap in gaps]
        parts = [(sample.value.waveform_S, sample.label[0]) for sample in samples]
        pieces = [piece for pair in zip(silences, [*parts, silences[-1]], strict=True) for piece in pair][:-1]
        pieces = [piece for piece in pieces if len(piece[0])]
        starts = accumulate((len(waveform_S) for waveform_S, _ in pieces[:-1]), initial=0)
        waveform_S = torch.cat([waveform_S for waveform_S, _ in pieces])
        segments = tuple(label for _, label in pieces)
        audio = Audio(waveform_S, rate, {"words": tuple(start / rate for start in starts)}, {"words": segments})
        if self.transform is not None:
            audio = self.transform(audio)
        return Sample(
            audio, self._label(speaker, samples, list(segments)), f"string {index} of {speaker}, {self.split}"
        )

    def limit(self, tokenizer: Tokenizer) -> None:
        """Limits the clips."""
        self.clips.limit(tokenizer)

    def shape(self, index: int) -> Sequence[int]:
        """(samples, rate) before augmentation.

        Raises:
            BadSample: one of its clips cannot be read.
        """
        _, positions, gaps = self._draw(index)
        shapes = [self.clips.shape(position) for position in positions]
        rate = shapes[0][1]
        return sum(samples for samples, _ in shapes) + sum(round(gap * rate) for gap in gaps), rate

    def _draw(self, index: int) -> tuple[str, list[int], list[float]]:
        """Speaker, clips and silences of a string, reproducible by seed and index."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        order = ("train", "val", "test").index(self.split)
        draw = torch.Generator().manual_seed((self.config.seed * 3 + order) * 1_000_003 + index)
        speaker = self._speakers[int(torch.randint(len(self._speakers), (), generator=draw))]
        clips = self._by_speaker[speaker]
        low, high = self.config.digits
        count = int(torch.randint(low, high + 1, (), generator=draw))
        chosen = torch.randint(len(clips), (count,), generator=draw).tolist()
        shortest, longest = self.config.gap_s
        gaps = (shortest + (longest - shortest) * torch.rand(count + 1, generator=draw)).tolist()
        return speaker, [clips[choice] for choice in chosen], gaps

    def _label(self, speaker: str, samples: Sequence[Sample], segments: list[str]) -> str | list[str]:
        if self.label == "speaker":
            return speaker
        if self.label == "segments":
            return segments
        if self.label == "text":
            return " ".join(sample.label for sample in samples)
        between = [" "] if self.label == "characters" else []
        return [unit for position, sample in enumerate(samples) for unit in (between * bool(position) + sample.label)]


def _target(row: Row, label: str) -> Target:
    if label in ("words", "segments"):
        return (row["word"],)
    if label == "phonemes":
        return phonemes(row["arpabet"])
    if label == "characters":
        return tuple(row["word"])
    return str(row["speaker" if label == "speaker" else "word"])


def phonemes(arpabet: str) -> tuple[str, ...]:
    """ARPAbet phonemes without the numbers that mark stress."""
    return tuple(phoneme.rstrip("012") for phoneme in arpabet.split())
