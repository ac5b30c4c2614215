"""GRID: sentences of six words from a small grammar, with the times of their words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import model_validator

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.time_span import TimeSpan

from ...audio.alignments import READABLE, read_alignment
from ...audio.files import read_header
from ...audio.folders import as_target
from ...audio.intervals import segments_of
from ...audio.joined import JoinableConfig
from ...audio.recordings import Recording, Target
from ...common.splits import check_split
from .layout import Sentence, sentences


class GridAudioConfig(JoinableConfig):
    """Sentences such as "bin blue at f two now" (GRID). Sounds have the boundary ``words``, including silences."""

    type: Literal["grid"]
    root: Path
    """Folder with ``index.tsv``, ``words.tsv`` and the recordings."""
    label: Literal["text", "words", "segments", "phonemes", "characters"] = "words"
    """The label: its text; its words, its phonemes of the dictionary (without stress) or its
    characters in order. ``segments`` are the words with ``sil`` for each silence: one for each group of the boundary
    ``words``."""

    alignments: Path | None = None
    """Folder with an alignment for each sentence, such as from ``hrt-mm speech align``; its tier ``words`` replaces the
    times in ``words.tsv``."""
    aligned: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """Splits with times from ``alignments``."""

    def build(self, split: str) -> Dataset:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        splits: dict[str, list[Recording]] = {}
        for sentence in sentences(self.root, "audio", spoken=True):
            # Other splits are only counted, and may have no alignment.
            words = self._words(sentence) if sentence.split in (split, "train") else sentence.words
            target: Target = sentence.spoken
            if self.label == "segments":
                target = tuple(interval.label for interval in words)
            elif self.label != "phonemes":
                target = as_target(sentence.row["sentence"], self.label)
            item = Recording(
                sentence.row["audio"],
                target,
                boundaries={"words": tuple(interval.start for interval in words)},
                labels={"words": tuple(interval.label for interval in words)},
            )
            splits.setdefault(sentence.split, []).append(item)
        if splits.get("val"):
            self.needless("val", f"{self.root} has its own val")
        sounds = self.dataset(split, self.root, splits, texts=self.label == "text")
        return self.concatenated(split, sounds, spaced=self.label == "characters")

    def _words(self, sentence: Sentence) -> tuple[TimeSpan, ...]:
        """Words and silences with their times."""
        audio = sentence.row["audio"]
        if self.alignments is None or sentence.split not in self.aligned:
            return sentence.words
        stem = self.alignments / PurePosixPath(audio).with_suffix("")
        alignments = [path for kind in READABLE if (path := stem.with_suffix(kind)).is_file()]
        if not alignments:
            raise ConfigError(f"data.alignments has no {stem.name} for {audio}; one of {', '.join(READABLE)}")
        tiers = read_alignment(alignments[0])
        if "words" not in tiers:
            raise ConfigError(f"{alignments[0]} has no tier 'words'; it has {', '.join(tiers) or 'none'}")
        header = read_header(self.root / audio, audio)
        return segments_of(tiers["words"], header.samples / header.rate)

    @model_validator(mode="after")
    def _aligned_by_something(self) -> GridAudioConfig:
        if self.alignments is None and self.aligned != GridAudioConfig.model_fields["aligned"].default:
            raise ValueError("aligned has no effect without alignments; set it, or drop the key")
        return self
