"""Ways to fuse results by vectors with results by words, by reciprocal rank; no training.

Each question has right rows, and is searched by vectors and by words alone; the first 100 of both are fused.

* ``titles``: the titles of Python's PEPs for the first 3,000 characters of their bodies, without the title. Vectors are
  latent semantic ones (TF-IDF and a truncated SVD of scikit-learn), of several widths: the wider, the better. Needs
  ``HRT_MM_DATA`` with ``peps/``.
* ``glyphs``: questions of ``demos/questions.tsv`` and ``word_questions.tsv`` for symbols, whose rows have a name each.
  Vectors are those of a run that ``python -m demos.glyphs`` left, ``--runs runs/glyphs``.

Ways:

* ``vectors``, ``words`` (:mod:`hrt_mm.retrieval.lexical`), ``bm25s words`` (the library, over words alone): unfused.
* ``rrf``: plain reciprocal rank fusion, k = 60 (Cormack, Clarke and Buettcher, SIGIR 2009); ``rrf, words x 4``: with a
  weight.
* ``hrt_mm``: a result by words counts by the square of its score (:mod:`hrt_mm.retrieval.hybrid`); ``linear``: by its
  score.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demos.questions import questions
from hrt_mm.core.errors import UserError
from hrt_mm.retrieval.hybrid import DEPTH, WORDS_WEIGHT, K
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.lexical import Words, search_words
from hrt_mm.retrieval.rows import Row as IndexRow
from hrt_mm.retrieval.search import Searcher

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .words import QUESTIONS, by_bm25s

NAME = "hybrid"
WIDTHS = (32, 128, 300)
BODY = 3_000
"""Characters of the body of a document."""
FIGURES = ("R@1", "R@5", "MRR")


@dataclass(frozen=True)
class Question:
    """A question with what finds its answers.

    Args:
        by_vectors: numbers of rows, best first.
        by_words: the same by words.
        scores: of the results by words, 0 to 1.
        by_bm25s: by the words of a library.
        right: rows that are right.
    """

    by_vectors: Sequence[int]
    by_words: Sequence[int]
    scores: Sequence[float]
    by_bm25s: Sequence[int]
    right: frozenset[int]


def rrf(question: Question, weight: Callable[[float], float]) -> list[int]:
    """Results by reciprocal rank fusion, in which one by words has a weight by its score."""
    totals: dict[int, float] = {}
    for rank, row in enumerate(question.by_vectors, 1):
        totals[row] = 1 / (K + rank)
    for rank, (row, score) in enumerate(zip(question.by_words, question.scores, strict=True), 1):
        totals[row] = totals.get(row, 0.0) + weight(score) / (K + rank)
    return sorted(totals, key=lambda row: -totals[row])


WAYS: dict[str, Callable[[Question], Sequence[int]]] = {
    "vectors": lambda question: question.by_vectors,
    "words": lambda question: question.by_words,
    "bm25s words": lambda question: question.by_bm25s,
    "rrf": lambda question: rrf(question, lambda score: 1),
    "rrf, words x 4": lambda question: rrf(question, lambda score: 4),
    "linear": lambda question: rrf(question, lambda score: 8 * score),
    "hrt_mm": lambda question: rrf(question, lambda score: WORDS_WEIGHT * score**2),
}


def figures(group: Sequence[Question], way: Callable[[Question], Sequence[int]]) -> dict[str, float | None]:
    """Recall among the first and the first five, and the mean reciprocal rank, of questions by the first right row."""
    ranks = []
    for question in group:
        matches = (rank for rank, row in enumerate(way(question), 1) if row in question.right)
        ranks.append(next(matches, np.inf))
    values = np.array(ranks, float)
    return {"R@1": float((values == 1).mean()), "R@5": float((values <= 5).mean()), "MRR": float((1 / values).mean())}


def searched(
    rows: Sequence[IndexRow],
    vectors_ND: np.ndarray,
    texts: Sequence[str],
    queries_QD: np.ndarray,
    rights: Sequence[frozenset[int]],
) -> list[Question]:
    """The answers to questions by vectors and by words."""
    segments = [(Words.of(rows), np.ones(len(rows), bool))]
    library = by_bm25s([" ".join(row.info.values()) for row in rows])
    result = []
    for text, query_D, right in zip(texts, queries_QD, rights, strict=True):
        by_vectors = np.argsort(-(vectors_ND @ query_D), kind="stable")[:DEPTH].tolist()
        matches = search_words(text, segments, DEPTH)
        by_words, scores = [match.position for match in matches], [match.score for match in matches]
        result.append(Question(by_vectors, by_words, scores, library(text)[:DEPTH], right))
    return result


def titles(folder: Path, count: int | None) -> Iterator[tuple[str, list[Question]]]:
    """Titles of documents, by the width of the vectors."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents = [json.loads(line) for line in (folder / "peps.jsonl").read_text("utf-8").splitlines()][:count]
    names = [document["title"] for document in documents]
    bodies = [_text(document["sections"]).replace(document["title"], "")[:BODY] for document in documents]
    rows = [IndexRow(str(number), "text", info={"text": body}) for number, body in enumerate(bodies)]
    rights = [frozenset([number]) for number in range(len(rows))]
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    matrix = tfidf.fit_transform(bodies)
    for width in WIDTHS[: 1 if count else None]:
        svd = TruncatedSVD(width if count is None else 4, random_state=0).fit(matrix)
        vectors_ND, queries_QD = _unit(svd.transform(matrix)), _unit(svd.transform(tfidf.transform(names)))
        yield f"titles, {width} wide", searched(rows, vectors_ND, names, queries_QD, rights)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return " ".join(map(_text, parts))


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)


def glyphs(folder: Path) -> Iterator[tuple[str, list[Question]]]:
    """Questions for symbols."""
    index = Index(folder / "index")
    searcher = Searcher.of(index, folder / "run")
    collections = [
        (segment.collection, segment.alive.positions)
        for segment in index.segments
        if segment.entry.tower == "image" and not segment.entry.level
    ]
    rows = [row for collection, positions in collections for row in collection.rows_at(positions.tolist())]
    vectors_ND = np.concatenate([collection.vectors_ND[positions] for collection, positions in collections])
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        of_names = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    asked: list[tuple[str, str, str | re.Pattern[str], str]] = [
        (f"glyphs, {question.set}", question.text, question.symbols, "character") for question in questions()
    ]
    asked += [
        ("glyphs, words of names", question["question"], re.compile(question["right"]), "name") for question in of_names
    ]
    for name in dict.fromkeys(group for group, *_ in asked):
        group = [(text, right, column) for each, text, right, column in asked if each == name]
        texts = [text for text, _, _ in group]
        rights = [
            frozenset(number for number, row in enumerate(rows) if _is_right(row.info.get(column, ""), right))
            for _, right, column in group
        ]
        yield name, searched(rows, vectors_ND, texts, searcher.embedder.embed(texts, "text"), rights)


def _is_right(value: str, right: str | re.Pattern[str]) -> bool:
    return bool(value) and (value in right if isinstance(right, str) else right.search(value) is not None)


def run(options: argparse.Namespace) -> Result:
    """Measures all ways on all questions.

    Raises:
        UserError: there is nothing to search.
    """
    data = os.environ.get("HRT_MM_DATA")
    if not data and not options.runs:
        raise UserError("set HRT_MM_DATA to the folder that holds peps/, or give a folder of the demo with --runs")
    rows = []
    groups = [
        *(titles(Path(data) / "peps", 40 if options.quick else None) if data else ()),
        *(glyphs(options.runs) if options.runs else ()),
    ]
    for name, group in groups:
        contenders = {way: Measured(seconds=None, scores=figures(group, rank)) for way, rank in WAYS.items()}
        rows.append(Row(sizes={"questions": name, "count": len(group)}, contenders=contenders, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"k": K, "depth": DEPTH, "weight": WORDS_WEIGHT},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = [
        [
            f"{row.sizes['questions']} ({row.sizes['count']})",
            way,
            *(f"{measured.scores[name] or 0:.1%}" for name in FIGURES[:2]),
            f"{measured.scores['MRR'] or 0:.3f}",
        ]
        for row in result.rows
        for way, measured in row.contenders.items()
    ]
    return markdown(["questions", "by", *FIGURES], body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--runs", type=Path, metavar="DIR", help="folder of the symbols demo, such as runs/glyphs")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
