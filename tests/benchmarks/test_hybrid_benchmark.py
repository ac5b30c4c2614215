"""The benchmark of ways to fuse results."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hybrid import WAYS, Question, figures, searched
from hrt_mm.retrieval.hybrid import fused
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.segment import Hit


def test_figures_are_of_the_first_right_row() -> None:
    group = [
        Question([3, 1, 2], [], [], [], frozenset([1, 2])),
        Question([0], [], [], [], frozenset([0])),
        Question([5], [], [], [], frozenset([7])),
    ]
    assert figures(group, WAYS["vectors"]) == {"R@1": 1 / 3, "R@5": 2 / 3, "MRR": pytest.approx(0.5)}


def test_the_way_of_the_package_is_that_of_its_searches() -> None:
    pytest.importorskip("bm25s")
    names = ["black chess knight", "white chess queen", "radioactive sign", "heart", "chess"]
    rows = [Row(str(number), "image", info={"name": name}) for number, name in enumerate(names)]
    vectors_ND = np.random.default_rng(0).normal(size=(5, 4))
    (question,) = searched(rows, vectors_ND, ["chess quen"], np.ones((1, 4)), [frozenset([1])])
    hits = [Hit(0.0, rows[number]) for number in question.by_vectors]
    matches = [
        (Hit(0.0, rows[number]), score) for number, score in zip(question.by_words, question.scores, strict=True)
    ]
    assert WAYS["hrt_mm"](question) == [int(hit.row.id) for hit in fused(hits, matches)]
    assert WAYS["hrt_mm"](question)[:2] == question.by_words[:2] == [1, 4]
    assert WAYS["rrf"](question)[:2] == question.by_vectors[:2] == [1, 0]
    assert question.by_bm25s[0] == 4
