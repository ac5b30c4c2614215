"""What a page offers to click: questions that the index answers, and columns to filter by, drawn from its own rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hrt_mm.data.capabilities import Textual
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.query import Query
from hrt_mm.retrieval.search import Searcher

from .answers import SYMBOL
from .media import Media

SAMPLED = 2_000
"""Rows that columns and examples are drawn from."""
TRIED = 24
"""Questions that are tried as examples."""
OFFERED = 6
"""Examples of a kind."""
RIGHT = 3
"""A question is offered if the row that it was made of is among so many first answers."""
LONGEST = 40
"""Characters of an example."""
MAX_VALUES = 24
"""A column with more different values has no list of them."""


@dataclass(frozen=True)
class Sampled:
    """Rows of an index, drawn at random.

    Args:
        hits: whole samples, in random order; always the same of one index.
    """

    hits: tuple[Hit, ...]

    @classmethod
    def of(cls, searcher: Searcher) -> Sampled:
        """Draws rows of an index in a folder; of a database, none."""
        if not isinstance(searcher.index, Index):
            return cls(())
        draw = random.Random(0)
        segments = [segment for segment in searcher.index.segments if not segment.entry.level]
        total = sum(len(segment.collection) for segment in segments)
        hits: list[Hit] = []
        for segment in segments:
            count = len(segment.collection)
            wanted = min(count, -(-SAMPLED * count // total))
            alive_N = segment.alive.allowed_N
            hits += [segment.hit(position, 0.0) for position in draw.sample(range(count), wanted) if alive_N[position]]
        draw.shuffle(hits)
        return cls(tuple(hits))

    def columns(self) -> dict[str, list[str]]:
        """The names of all texts beside rows, each with its values where these are few, the most frequent first."""
        counts: dict[str, Counter[str]] = {}
        for hit in self.hits:
            for name, value in hit.row.info.items():
                counts.setdefault(name, Counter())[value] += 1
        return {
            name: [value for value, _ in counter.most_common()]
            if 1 < len(counter) <= MAX_VALUES and max(map(len, counter)) <= LONGEST
            else []
            for name, counter in counts.items()
        }

    def questions(self, searcher: Searcher) -> list[str]:
        """Texts of rows that find their row."""
        tower = next((name for name in searcher.embedder.towers if is_text(searcher, name)), None)
        if tower is None or not self.hits:
            return []
        find = searcher.answering(tower)
        questions = []
        for hit, text in list(self._texts(find))[:TRIED]:
            results = searcher.search(Query.of(tower, text), RIGHT, find=find)
            if hit.row.id in [result.row.id for result in results]:
                questions.append(text)
            if len(questions) == OFFERED:
                break
        return questions

    def _texts(self, tower: str) -> Iterator[tuple[Hit, str]]:
        """Short texts of rows, those of rows with many texts first, and no two that begin with one word."""
        seen = set()
        for hit in sorted(self.hits, key=lambda hit: -len(hit.row.info)):
            text = next((value for name, value in hit.row.info.items() if name != SYMBOL), "")
            first_word = text.partition(" ")[0]
            if hit.row.tower == tower and 2 < len(text) <= LONGEST and first_word not in seen:
                seen.add(first_word)
                yield hit, text

    def pictures(self, media: Media) -> list[dict[str, Any]]:
        """Rows with a picture, to find similar ones."""
        chosen = []
        for hit in sorted(self.hits, key=lambda hit: -len(hit.row.info)):
            if hit.media is not None and media.kind(hit.media) == "image":
                info = dict(hit.row.info)
                symbol = info.pop(SYMBOL, "")
                title = next(iter(info.values()), hit.row.id)
                url = media.link(hit.media)
                chosen.append({"id": hit.row.id, "tower": hit.row.tower, "title": title, "symbol": symbol, "url": url})
            if len(chosen) == OFFERED:
                break
        return chosen


def is_text(searcher: Searcher, tower: str) -> bool:
    """Whether a tower reads text."""
    return issubclass(searcher.embedder.modality(tower), Textual)
