"""Questions that people type, with the symbols that are right: how many a search answers.

``questions.tsv`` has twenty plain ones, and others (``kept``) that nothing was chosen by. None is trained on. A line
lists the symbols that count as right; a question is answered if one of them is among the first five answers.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.query import Query
from hrt_mm.retrieval.search import Searcher

from .answers import SYMBOL

FILE = Path(__file__).with_name("questions.tsv")
FIRST = 5
"""Answers among which a right one is looked for."""
SETS = ("plain", "kept")


@dataclass(frozen=True)
class SymbolQuestion:
    """A question.

    Args:
        set: of :data:`SETS`.
        language: of the words.
        text: as it is typed.
        symbols: that are right.
    """

    set: str
    language: str
    text: str
    symbols: str


@cache
def questions() -> tuple[SymbolQuestion, ...]:
    """All questions."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return tuple(SymbolQuestion(*row) for row in rows)


@dataclass(frozen=True)
class Answered:
    """How many questions have a right answer.

    Args:
        first: as the first answer.
        among_first: among the first five.
        count: of the questions.
        missed: questions without one among the first five.
    """

    first: int
    among_first: int
    count: int
    missed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.among_first} of {self.count} among the first {FIRST}, {self.first} first"


def answered(group: Sequence[SymbolQuestion], search: Callable[[str], Sequence[Hit]]) -> Answered:
    """Asks questions.

    Args:
        group: the questions.
        search: gives the first :data:`FIRST` hits of a text.
    """
    right = [[hit.row.info.get(SYMBOL, "") in question.symbols for hit in search(question.text)] for question in group]
    missed = tuple(question.text for question, marks in zip(group, right, strict=True) if not any(marks))
    return Answered(sum(marks[:1] == [True] for marks in right), len(group) - len(missed), len(group), missed)


def ways(searcher: Searcher, find: str = "image") -> Mapping[str, Callable[[str], Sequence[Hit]]]:
    """The searches that are compared: by the vectors of pictures, by those of names, by words, and as the page does.

    Args:
        searcher: of symbols.
        find: the tower to search.
    """
    index = searcher.index
    assert isinstance(index, Index)

    def by_words(text: str) -> Sequence[Hit]:
        vector_D = searcher.embedder.query("text", text)
        return [hit for hit, _ in index.search_words(text, vector_D, FIRST, tower=find)]

    return {
        "vectors": lambda text: searcher.search(Query.text(text), FIRST, find=find, hybrid=False),
        "vectors of names": lambda text: searcher.search(Query.text(text), FIRST, find="text", hybrid=False),
        "words": by_words,
        "both": lambda text: searcher.search(Query.text(text), FIRST, find=find),
    }
