"""Ways to search names by words: what the lexical side of hybrid search was chosen by. No training, no data.

The names of all glyphs are searched for the 119 questions of ``word_questions.tsv``, each with an expression for the
names that are right: words of names, typos, other forms and other names.

* ``hrt_mm``: BM25 over words and trigrams (:mod:`hrt_mm.retrieval.lexical`).
* ``bm25s words``: BM25 over words.
* ``tfidf 2-4-grams``: cosine of TF-IDF over character 2- to 4-grams within words (scikit-learn).
* ``fused``: the last two by reciprocal rank.
"""

from __future__ import annotations

import argparse
import csv
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.retrieval.lexical import Words, search_words, words_of
from hrt_mm.retrieval.rows import Row as IndexRow
from hrt_modalities.joint.fonts import characters
from hrt_modalities.joint.symbol_names import name_of

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "words"
QUESTIONS = Path(__file__).with_name("word_questions.tsv")
Ranking = Callable[[str], Sequence[int]]
"""Numbers of the names that match a question, best first."""


def by_words(names: Sequence[str]) -> Ranking:
    """The lexical search of this package."""
    rows = [IndexRow(str(number), "image", info={"name": name}) for number, name in enumerate(names)]
    segments = [(Words.of(rows), np.ones(len(rows), bool))]
    return lambda question: [match.position for match in search_words(question, segments, 100)]


def by_bm25s(names: Sequence[str]) -> Ranking:
    """BM25 over words."""
    import bm25s

    make: Any = bm25s.BM25
    index = make()
    index.index([words_of(name) for name in names], show_progress=False)

    def ranked(question: str) -> Sequence[int]:
        known = [word for word in words_of(question) if word in index.vocab_dict]
        return _ranked(index.get_scores(known)) if known else []

    return ranked


def by_tfidf(names: Sequence[str]) -> Ranking:
    """TF-IDF over character n-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    matrix = vectorizer.fit_transform(names)
    return lambda question: _ranked((matrix @ vectorizer.transform([question]).T).toarray()[:, 0])


def fused(rankings: Sequence[Ranking]) -> Ranking:
    """Reciprocal rank fusion."""

    def ranked(question: str) -> Sequence[int]:
        scores: dict[int, float] = {}
        for ranking in rankings:
            for rank, number in enumerate(ranking(question), 1):
                scores[number] = scores.get(number, 0.0) + 1 / (60 + rank)
        return sorted(scores, key=lambda number: -scores[number])

    return ranked


def _ranked(scores_N: np.ndarray) -> list[int]:
    order_N = np.argsort(-scores_N, kind="stable")[:100]
    return [int(number) for number in order_N if scores_N[number] > 0]


def run(options: argparse.Namespace) -> Result:
    """Asks all questions in all ways."""
    names = [name_of(code) for code in sorted(characters())]
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        questions = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if options.quick:
        names, questions = names[:300], questions[:5]
    contenders = {}
    ways: dict[str, Callable[[Sequence[str]], Ranking]] = {
        "hrt_mm": by_words,
        "bm25s words": by_bm25s,
        "tfidf 2-4-grams": by_tfidf,
        "fused": lambda names: fused([by_bm25s(names), by_tfidf(names)]),
    }
    for way, build in ways.items():
        start = time.process_time()
        ranking = build(names)
        built = time.process_time() - start
        right = [
            [re.search(question["right"], names[number]) is not None for number in ranking(question["question"])[:5]]
            for question in questions
        ]
        asked = time.process_time() - start - built
        contenders[way] = Measured(
            seconds=asked / len(questions),
            bytes=None,
            scores={
                "first": float(sum(answers[:1] == [True] for answers in right)),
                "first five": float(sum(map(any, right))),
                "build seconds": built,
            },
        )
    row = Row(sizes={"names": len(names), "questions": len(questions)}, contenders=contenders, ratios={})
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={},
        checks={},
        rows=[row],
        bars=[],
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    (row,) = result.rows
    body = [
        [
            way,
            *(f"{measured.scores[name]:g} of {row.sizes['questions']}" for name in ("first", "first five")),
            f"{measured.scores['build seconds']:.2f} s",
            f"{1000 * (measured.seconds or 0):.2f} ms",
        ]
        for way, measured in row.contenders.items()
    ]
    head = ["words", "right first", "right among the first 5", "processor time to index", "per question"]
    return f"{row.sizes['names']:,} names.\n\n{markdown(head, body)}"


if __name__ == "__main__":
    raise SystemExit(main(parser(NAME, __doc__ or ""), run, tables))
