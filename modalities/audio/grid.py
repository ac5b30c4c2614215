"""GRID: sentences of six words from a small grammar, with the times of their words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from hrt_mm.errors import ConfigError
from hrt_mm.modality import Dataset

from ..folders import need_root
from ..splits import check_split
from ..tables import Row, read_rows, seconds_of, split_of
from .alignments import READABLE, SILENCE, Interval, check_order, read_alignment, starts_of
from .digits import phonemes
from .folders import as_target
from .joined import JoinableConfig
from .recordings import Recording, Target

_PAUSE = "sp"
"""What a short silence between words is called there."""


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
        need_root(self.root, "index.tsv")
        need_root(self.root, "words.tsv")
        words, spoken = self._words()
        splits: dict[str, list[Recording]] = {}
        columns = ("id", "audio", "sentence", "split")
        for number, row in read_rows(self.root / "index.tsv", columns, "the columns of GRID's index"):
            place = f"{self.root}/index.tsv:{number}"
            if row["id"] not in words:
                raise ConfigError(f"{place}: {row['id']!r} has no words in words.tsv")
            own = words[row["id"]]
            check_order(own, f"{self.root}/words.tsv", row["id"])
            item = Recording(
                row["audio"],
                self._target(row["sentence"], own, spoken[row["id"]]),
                boundaries={"words": self._starts(row, own)},
                labels={"words": tuple(interval.label for interval in own)},
            )
            splits.setdefault(split_of(row, "split", place), []).append(item)
        if splits.get("val"):
            self.needless("val", f"{self.root} has its own val")
        sounds = self.dataset(split, self.root, splits, texts=self.label == "text")
        return self.strung(split, sounds, spaced=self.label == "characters")

    def _starts(self, row: Row, own: list[Interval]) -> tuple[float, ...]:
        """Where words and silences start."""
        if self.alignments is None or row["split"] != "train":
            return tuple(interval.start for interval in own)
        stem = self.alignments / PurePosixPath(row["audio"]).with_suffix("")
        found = [path for kind in READABLE if (path := stem.with_suffix(kind)).is_file()]
        if not found:
            raise ConfigError(f"data.alignments has no {stem.name} for {row['audio']}; one of {', '.join(READABLE)}")
        tiers = read_alignment(found[0])
        if "words" not in tiers:
            raise ConfigError(f"{found[0]} has no tier 'words'; it has {', '.join(tiers) or 'none'}")
        return starts_of(tiers["words"])

    def _words(self) -> tuple[dict[str, list[Interval]], dict[str, list[str]]]:
        """Of each sentence, its words and silences in time, and its phonemes."""
        words: dict[str, list[Interval]] = {}
        spoken: dict[str, list[str]] = {}
        file = self.root / "words.tsv"
        columns = ("id", "word", "start_s", "end_s", "arpabet_canonical")
        for number, row in read_rows(file, columns, "the columns of GRID's words"):
            place = f"{file}:{number}"
            start, end = (seconds_of(row, column, place) or 0.0 for column in ("start_s", "end_s"))
            silent = row["word"] in (SILENCE, _PAUSE)
            words.setdefault(row["id"], []).append(Interval(start, end, SILENCE if silent else row["word"]))
            if not silent:
                spoken.setdefault(row["id"], []).extend(phonemes(row["arpabet_canonical"]))
        return words, spoken

    def _target(self, sentence: str, words: list[Interval], spoken: list[str]) -> Target:
        if self.label == "segments":
            return tuple(interval.label for interval in words)
        return tuple(spoken) if self.label == "phonemes" else as_target(sentence, self.label)
