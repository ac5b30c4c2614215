"""GRID: sentences of six words from a small grammar, with the times of their words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from hrt_mm.errors import ConfigError
from hrt_mm.modality import Dataset

from ..grid import Sentence, sentences
from ..splits import check_split
from .alignments import READABLE, read_alignment, starts_of
from .folders import as_target
from .joined import JoinableConfig
from .recordings import Recording, Target


class GridConfig(JoinableConfig):
    """Sentences such as "bin blue at f two now" (GRID). Sounds carry ``words``, silences among them."""

    type: Literal["grid"]
    root: Path
    """Folder that holds ``index.tsv``, ``words.tsv`` and the recordings."""
    label: Literal["text", "words", "segments", "phonemes", "characters"] = "words"
    """What is told from the sound: its text; its words, its phonemes of the dictionary (without stress) or its
    characters in order. ``segments`` are the words with ``sil`` for each silence: one for each group of the boundary
    ``words``."""

    alignments: Path | None = None
    """Folder with an alignment for each training sentence, such as ``hrt-mm speech align`` writes; its tier ``words``
    takes the place of the times in ``words.tsv``. Other splits keep theirs."""

    def build(self, split: str) -> Dataset:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        splits: dict[str, list[Recording]] = {}
        for own in sentences(self.root, "audio", spoken=True):
            item = Recording(
                own.row["audio"],
                self._target(own),
                boundaries={"words": self._starts(own)},
                labels={"words": tuple(interval.label for interval in own.words)},
            )
            splits.setdefault(own.split, []).append(item)
        if splits.get("val"):
            self.needless("val", f"{self.root} has its own val")
        sounds = self.dataset(split, self.root, splits, texts=self.label == "text")
        return self.strung(split, sounds, spaced=self.label == "characters")

    def _starts(self, own: Sentence) -> tuple[float, ...]:
        """Where words and silences start."""
        audio = own.row["audio"]
        if self.alignments is None or own.split != "train":
            return tuple(interval.start for interval in own.words)
        stem = self.alignments / PurePosixPath(audio).with_suffix("")
        found = [path for kind in READABLE if (path := stem.with_suffix(kind)).is_file()]
        if not found:
            raise ConfigError(f"data.alignments has no {stem.name} for {audio}; one of {', '.join(READABLE)}")
        tiers = read_alignment(found[0])
        if "words" not in tiers:
            raise ConfigError(f"{found[0]} has no tier 'words'; it has {', '.join(tiers) or 'none'}")
        return starts_of(tiers["words"])

    def _target(self, own: Sentence) -> Target:
        if self.label == "segments":
            return tuple(interval.label for interval in own.words)
        return own.spoken if self.label == "phonemes" else as_target(own.row["sentence"], self.label)
