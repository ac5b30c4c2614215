"""GRID: faces and mouths of a talker that say sentences of six words from a small grammar, with the words' times."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hrt_mm.errors import ConfigError

from ..audio.alignments import SILENCE, Interval, check_order
from ..folders import need_root
from ..media import Target
from ..splits import check_split
from ..tables import read_rows, seconds_of, split_of
from .clips import Clip, Clips, ClipsConfig


class GridConfig(ClipsConfig):
    """Silent video of sentences such as "bin blue at f two now" (GRID). Videos carry ``words``, silences among them."""

    type: Literal["grid_video"]
    root: Path
    """Folder that holds ``index.tsv``, ``words.tsv`` and the videos."""
    view: Literal["mouth", "face"] = "mouth"
    """What is seen."""
    label: Literal["text", "words", "characters", "segments", "slots"] = "words"
    """What is told from the picture: the text, its words or its characters in order. ``segments`` are the words with
    ``sil`` for each silence: one for each group of the boundary ``words``. ``slots`` are the same without labels for
    the silences: six words, each at its time."""

    def build(self, split: str) -> Clips:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        need_root(self.root, "index.tsv")
        need_root(self.root, "words.tsv")
        words = self._words()
        splits: dict[str, list[Clip]] = {}
        columns = ("id", self.view, "sentence", "split")
        for number, row in read_rows(self.root / "index.tsv", columns, "the columns of GRID's index"):
            place = f"{self.root}/index.tsv:{number}"
            if row["id"] not in words:
                raise ConfigError(f"{place}: {row['id']!r} has no words in words.tsv")
            own = words[row["id"]]
            check_order(own, f"{self.root}/words.tsv", row["id"])
            starts = tuple(interval.start for interval in own)
            item = Clip(row[self.view], self._target(row["sentence"], own), boundaries={"words": starts})
            splits.setdefault(split_of(row, "split", place), []).append(item)
        if splits.get("val"):
            self.needless("val", f"{self.root} has its own val")
        return self.dataset(split, self.root, splits, texts=self.label == "text")

    def _words(self) -> dict[str, list[Interval]]:
        """Of each sentence, its words and silences in time."""
        words: dict[str, list[Interval]] = {}
        file = self.root / "words.tsv"
        for number, row in read_rows(file, ("id", "word", "start_s", "end_s"), "the columns of GRID's words"):
            place = f"{file}:{number}"
            start, end = (seconds_of(row, column, place) or 0.0 for column in ("start_s", "end_s"))
            words.setdefault(row["id"], []).append(Interval(start, end, row["word"]))
        return words

    def _target(self, sentence: str, words: list[Interval]) -> Target:
        if self.label == "text":
            return sentence
        if self.label == "characters":
            return tuple(sentence)
        if self.label == "words":
            return tuple(sentence.split())
        silent = None if self.label == "slots" else SILENCE
        return tuple(silent if interval.label == SILENCE else interval.label for interval in words)
