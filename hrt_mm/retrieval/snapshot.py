"""The segments of an index at one time, and reading them: by vectors, by words, and by key.

Shapes: Q queries, D width, K results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from .lexical import search_words_many
from .neighbours import Mask
from .options import Scope, VectorSearch
from .rows import Row, key_of
from .segment import Hit, Segment


@dataclass(frozen=True)
class Group:
    """The rows of a tower and level.

    Args:
        tower: of the rows.
        level: of the rows; empty for samples.
        rows: their number.
        removed: number of removed rows whose space is not reclaimed.
        segments: number of segments.
        recall: measured recall of 10 neighbours; ``None`` if unmeasured.
        queries: number of queries that it was measured with; 0 if search is exact.
    """

    tower: str
    level: str
    rows: int
    removed: int
    segments: int
    recall: float | None
    queries: int

    @classmethod
    def of(cls, tower: str, level: str, segments: Sequence[Segment]) -> Group:
        """Of all segments of a tower and level. Recall is averaged over them by their rows."""
        rows, removed = sum(map(len, segments)), sum(len(segment.removed) for segment in segments)
        queries = sum(segment.entry.tuning.queries for segment in segments if segment.entry.tuning)
        recalls = [(segment.neighbours.recall, len(segment)) for segment in segments if len(segment)]
        measured = [recall * count for recall, count in recalls if recall is not None]
        recall = sum(measured) / rows if measured and len(measured) == len(recalls) else None
        return cls(tower, level, rows, removed, len(segments), recall, queries)

    @property
    def search(self) -> str:
        """How accurate search is, in words."""
        if not self.rows:
            return "nothing to search"
        if self.recall is None:
            return "recall is unmeasured; measure it with `hrt-mm index compact`"
        if not self.queries:
            return "search is exact"
        return f"search finds {self.recall:.1%} of the true 10 nearest, measured with {self.queries} queries"


class Snapshot:
    """Open segments.

    Args:
        segments: in the order in which they were added.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self._in_scope: dict[tuple[str | None, str], list[Segment]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @cached_property
    def by_group(self) -> dict[tuple[str, str], list[Segment]]:
        """Segments by tower and level."""
        groups: dict[tuple[str, str], list[Segment]] = {}
        for segment in self.segments:
            groups.setdefault((segment.entry.tower, segment.entry.level), []).append(segment)
        return groups

    @cached_property
    def groups(self) -> dict[tuple[str, str], Group]:
        """The rows of each tower and level."""
        return {key: Group.of(*key, segments) for key, segments in self.by_group.items()}

    @property
    def levels(self) -> set[str]:
        """The levels of pieces."""
        return {level for _, level in self.by_group if level}

    @cached_property
    def columns(self) -> frozenset[str]:
        """The names of the columns of ``info`` of all rows."""
        return frozenset().union(*(segment.columns for segment in self.segments))

    def rows_with(self, keys: Sequence[int]) -> Iterator[tuple[Segment, int]]:
        """The segments and positions of the rows with some keys, in any order; missing ones are left out."""
        for segment in self.segments:
            for positions in segment.living("keys", keys).values():
                yield from ((segment, position) for position in positions)

    def media(self, key: int) -> Path | None:
        """The media file of the row with a key, if any."""
        paths = (segment.media(position) for segment, position in self.rows_with([key]))
        return next((path for path in paths if path is not None), None)

    def vector(self, row: Row) -> np.ndarray:
        """(D,) the vector of a row.

        Raises:
            UserError: there is no such row.
        """
        for segment, position in self.rows_with([row.key]):
            return np.array(segment.collection.vectors_ND[position])
        raise UserError(f"the index has no row {row.id!r} of {row.tower}")

    def count(self, scope: Scope) -> int:
        """The number of rows in a scope."""
        return sum(self._mask(segment, scope).count for segment in self._segments(scope))

    def search(self, queries_QD: np.ndarray, k: int, options: VectorSearch) -> list[list[Hit]]:
        """The nearest rows to each query, best first; of equal ones those that were added first."""
        segments = self._segments(options)
        nearest = [
            segment.neighbours.search(queries_QD, k, self._mask(segment, options), exact=options.exact)
            for segment in segments
        ]
        hits = _best(segments, nearest, k, len(queries_QD))
        if not options.inside:
            return hits
        answers = []
        for number, (of_query, query_D) in enumerate(zip(hits, queries_QD, strict=True)):
            finer = options.of_query(number).finer
            queries = dict.fromkeys(self.levels, query_D) if finer is None else finer
            answers.append(self.with_pieces(of_query, options.inside, queries))
        return answers

    def search_words(
        self, texts: Sequence[str], queries_QD: np.ndarray, k: int, scope: Scope
    ) -> list[list[tuple[Hit, float]]]:
        """The rows whose texts match each text best, each with how well it does, 0 to 1.

        Args:
            texts: the queries.
            queries_QD: their vectors, for the scores of the hits.
            k: maximum number of results of each.
            scope: the rows to search.
        """
        segments = self._segments(scope)
        words = [(segment.words, self._mask(segment, scope).allowed_N) for segment in segments]
        results = []
        for matches, query_D in zip(search_words_many(texts, words, k), queries_QD, strict=True):
            hits = []
            for match in matches:
                segment = segments[match.segment]
                score = float(segment.collection.vectors_ND[match.position] @ query_D)
                hits.append((segment.hit(match.position, score), match.score))
            results.append(hits)
        return results

    def with_pieces(self, hits: Sequence[Hit], count: int, queries: Mapping[str, np.ndarray]) -> list[Hit]:
        """The hits with the best finer rows within each."""
        return [replace(hit, inside=self._pieces(hit.row, queries, count)) for hit in hits]

    def _pieces(self, row: Row, queries: Mapping[str, np.ndarray], count: int) -> tuple[Hit, ...]:
        """The best rows whose parent is this one, each with the best rows inside it."""
        candidates: list[tuple[float, Segment, int]] = []
        for segment in self.segments:
            if segment.entry.tower == row.tower and segment.entry.level in queries:
                positions = segment.living("parents", [row.key]).get(row.key, [])
                scores = segment.collection.vectors_ND[positions] @ queries[segment.entry.level]
                candidates += [
                    (float(score), segment, position) for score, position in zip(scores, positions, strict=True)
                ]
        best = sorted(candidates, key=lambda item: -item[0])[:count]
        hits = [segment.hit(position, score) for score, segment, position in best]
        return tuple(self.with_pieces(hits, count, queries))

    def _segments(self, scope: Scope) -> list[Segment]:
        """Those with rows of a tower and level."""
        key = scope.tower, scope.level
        if (segments := self._in_scope.get(key)) is None:
            segments = [
                segment
                for (tower, level), group in self.by_group.items()
                if level == scope.level and scope.tower in (None, tower)
                for segment in group
            ]
            # The order of equal rows must not depend on how segments were merged.
            segments.sort(key=lambda segment: segment.entry.tower)
            self._in_scope[key] = segments
        return segments

    def _mask(self, segment: Segment, scope: Scope) -> Mask:
        return segment.mask(scope.where, _Inherited(self)) if scope.where is not None else segment.alive


class _Inherited:
    """Gives the columns of the sample that a row is a piece of.

    Args:
        snapshot: that has the sample.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._columns: dict[tuple[str, str], Mapping[str, str]] = {}

    def __call__(self, row: Row) -> Mapping[str, str]:
        chain = []
        columns: Mapping[str, str] = {}
        while row.parent and (row.tower, row.parent) not in chain:
            if (cached := self._columns.get((row.tower, row.parent))) is not None:
                columns = cached
                break
            chain.append((row.tower, row.parent))
            segment, position = next(self._snapshot.rows_with([key_of(row.tower, row.parent)]), (None, 0))
            if segment is None:
                break
            row = segment.collection.row(position)
            columns = {} if row.level else row.info
        self._columns |= dict.fromkeys(chain, columns)
        return columns


def _best(
    segments: Sequence[Segment], nearest: Sequence[tuple[np.ndarray, np.ndarray]], k: int, queries: int
) -> list[list[Hit]]:
    """The hits of each query, of the results of all segments."""
    if not segments:
        return [[] for _ in range(queries)]
    if len(segments) == 1:
        ((scores_QK, positions_QK),) = nearest
        return [
            [Hit.stored(score, segments[0], position) for position, score in zip(positions, scores, strict=True)]
            for positions, scores in zip(positions_QK.tolist(), scores_QK.tolist(), strict=True)
        ]
    scores_QN = np.concatenate([scores_QK for scores_QK, _ in nearest], 1)
    positions_QN = np.concatenate([positions_QK for _, positions_QK in nearest], 1)
    segment_N = np.repeat(np.arange(len(segments)), [scores_QK.shape[1] for scores_QK, _ in nearest])
    order_QK = np.argsort(-scores_QN, 1, kind="stable")[:, :k]
    return [
        [segments[segment_N[at]].hit(int(positions_N[at]), float(scores_N[at])) for at in order_K]
        for order_K, positions_N, scores_N in zip(order_QK, positions_QN, scores_QN, strict=True)
    ]
