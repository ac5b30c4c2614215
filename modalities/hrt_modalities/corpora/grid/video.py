"""GRID: faces and mouths of a talker that say sentences of six words from a small grammar, with the words' times."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...audio.intervals import SILENCE
from ...common.media import Target
from ...common.splits import check_split
from ...video.clips import Clip, Clips, ClipsConfig
from .layout import Sentence, sentences


class GridVideoConfig(ClipsConfig):
    """Silent video of sentences such as "bin blue at f two now" (GRID). Videos carry ``words``, silences among them."""

    type: Literal["grid_video"]
    root: Path
    """Folder that holds ``index.tsv``, ``words.tsv`` and the videos."""
    view: Literal["mouth", "face"] = "mouth"
    """Content of the videos."""
    label: Literal["text", "words", "characters", "segments", "slots"] = "words"
    """The label: the text, its words or its characters in order. ``segments`` are the words with
    ``sil`` for each silence: one for each group of the boundary ``words``. ``slots`` are the same without labels for
    the silences: six words, each at its time."""

    def build(self, split: str) -> Clips:
        """The sentences of a split.

        Raises:
            ConfigError: the data is missing or broken; names the row.
        """
        check_split(split)
        splits: dict[str, list[Clip]] = {}
        for sentence in sentences(self.root, self.view):
            starts = tuple(interval.start for interval in sentence.words)
            item = Clip(sentence.row[self.view], self._target(sentence), boundaries={"words": starts})
            splits.setdefault(sentence.split, []).append(item)
        if splits.get("val"):
            self.needless("val", f"{self.root} has its own val")
        return self.dataset(split, self.root, splits, texts=self.label == "text")

    def _target(self, sentence: Sentence) -> Target:
        text = sentence.row["sentence"]
        if self.label == "text":
            return text
        if self.label == "characters":
            return tuple(text)
        if self.label == "words":
            return tuple(text.split())
        silent = None if self.label == "slots" else SILENCE
        return tuple(silent if interval.label == SILENCE else interval.label for interval in sentence.words)
