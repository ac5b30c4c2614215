"""Fusion of results by vectors with results by words.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009), in which a result by words counts by the square of
its score: a text that shares some trigrams with the query does not displace results by vectors, and one that has all
words of the query comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .segment import Hit, Ranks

DEPTH = 100
"""Number of results by vectors, and of results by words, that are fused."""
K = 60
"""Constant of reciprocal rank fusion."""
WORDS_WEIGHT = 12.0
"""Weight of a result by words with a score of 1, beside 1 for results by vectors (docs/benchmarks/retrieval.md)."""


def fused(hits: Sequence[Hit], matches: Sequence[tuple[Hit, float]]) -> list[Hit]:
    """Results by vectors and by words in one order, best first.

    Args:
        hits: by vectors, best first. Those beyond :data:`DEPTH` follow the fused ones.
        matches: by words, best first, each with its score, 0 to 1.
    """
    by_key: dict[int, Hit] = {}
    scores: dict[int, float] = {}
    for rank, hit in enumerate(hits[:DEPTH], 1):
        by_key[hit.row.key] = replace(hit, ranks=Ranks(rank, None))
        scores[hit.row.key] = 1 / (K + rank)
    for rank, (hit, score) in enumerate(matches[:DEPTH], 1):
        known = by_key.get(hit.row.key)
        vector_rank = known.ranks.vector if known is not None and known.ranks is not None else None
        by_key[hit.row.key] = replace(known or hit, ranks=Ranks(vector_rank, rank, score))
        scores[hit.row.key] = scores.get(hit.row.key, 0.0) + WORDS_WEIGHT * score**2 / (K + rank)
    order = sorted(by_key, key=lambda key: -scores[key])
    rest = [hit for hit in hits[DEPTH:] if hit.row.key not in by_key]
    return [*(by_key[key] for key in order), *rest]
