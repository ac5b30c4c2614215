"""The benchmark of ways to search names by words, on three names."""

from __future__ import annotations

import pytest

from benchmarks.words import Ranking, by_bm25s, by_tfidf, by_words, fused

NAMES = ["black chess knight", "white chess queen", "heart"]


def test_contenders_rank_names() -> None:
    pytest.importorskip("bm25s")
    ways: dict[str, Ranking] = {
        "hrt_mm": by_words(NAMES),
        "bm25s": by_bm25s(NAMES),
        "tfidf": by_tfidf(NAMES),
        "fused": fused([by_bm25s(NAMES), by_tfidf(NAMES)]),
    }
    assert {way: ranking("chess queen")[0] for way, ranking in ways.items()} == dict.fromkeys(ways, 1)
    assert all(list(ranking("?!")) == [] for ranking in ways.values())
    assert [way for way, ranking in ways.items() if list(ranking("hart"))[:1] == [2]] == ["hrt_mm", "tfidf", "fused"]
