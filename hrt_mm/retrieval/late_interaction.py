"""Late interaction: exact MaxSim between the tokens of a query and the pieces of samples in an index.

The pieces of a level are rows of the index already, so a sample has as many vectors as the level has tokens. They are
compared for the candidates of a search by single vectors (reranking), or for the samples of the nearest pieces, as in
ColBERT (arXiv 2004.12832).

Shapes: T tokens of a query, P pieces, S samples, C candidates, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ..core.errors import UserError
from .index import Index
from .neighbours import Mask
from .query import ReadTerm
from .rows import Row
from .segment import Hit, Segment
from .vector_encoder import VectorEncoder
from .where import Where

CHUNK = 65_536
"""Pieces that are compared at a time."""
NOTHING = -1.0
"""Score of a sample without pieces: the lowest cosine."""

Terms: TypeAlias = "Sequence[tuple[np.ndarray, float]]"
"""(T, D) tokens of each term of a query, with its weight."""


def terms_of(terms: Sequence[ReadTerm], embedder: VectorEncoder, target: str, level: str) -> Terms:
    """The tokens of a query, to compare with pieces of a level.

    Raises:
        BadSample: a value is unusable.
        UserError: training did not compare the level with the tower of a term.
    """
    return [(embedder.query_tokens(term.tower, target, level, [term.value])[0], term.weight) for term in terms]


@dataclass(frozen=True, eq=False)
class MultiVectors:
    """The pieces of a level of an index, by sample.

    Args:
        index: that has them.
        tower: of the samples.
        level: of the pieces.
        samples_S: int64 fingerprints of the samples that have pieces, ascending.
        offsets_S1: (S + 1,) int64 first piece of each sample, then P.
        segment_P: int64 index into ``segments`` of each piece, in the order of the samples.
        position_P: int64 position in that segment.
        segments: that have the pieces.
        all_segments: those of the index when the pieces were read.
    """

    index: Index
    tower: str
    level: str
    samples_S: np.ndarray
    offsets_S1: np.ndarray
    segment_P: np.ndarray
    position_P: np.ndarray
    segments: tuple[Segment, ...]
    all_segments: tuple[Segment, ...]

    @classmethod
    def of(cls, index: Index, tower: str, level: str) -> MultiVectors:
        """Reads which sample each piece is of. Pieces of removed samples are left out.

        Raises:
            UserError: the index has no pieces of the level; names those that it has.
        """
        all_segments = tuple(index.segments)
        pieces = [segment for segment in all_segments if segment.entry.tower == tower and segment.entry.level]
        segments = tuple(segment for segment in pieces if segment.entry.level == level)
        if not segments:
            levels = ", ".join(sorted({segment.entry.level for segment in pieces})) or "no level"
            raise UserError(
                f"the index has no pieces of level {level!r} of {tower}; it has those of {levels}: embed them with "
                f"`hrt-mm embed --level {level}`"
            )
        keys_P, parents_P = (
            np.concatenate([segment.collection.fingerprints_by_position(which) for segment in pieces])
            for which in ("keys", "parents")
        )
        order = np.argsort(keys_P, kind="stable")
        keys_P, parents_P = keys_P[order], parents_P[order]
        owners, segment_numbers, positions = [], [], []
        for number, segment in enumerate(segments):
            alive = segment.alive.positions
            owners.append(segment.collection.fingerprints_by_position("parents")[alive])
            segment_numbers.append(np.full(len(alive), number))
            positions.append(alive)
        owner_P = np.concatenate(owners)
        # Pieces of fine levels lie in pieces of coarser ones.
        for _ in {segment.entry.level for segment in pieces}:
            index_P = np.searchsorted(keys_P, owner_P).clip(max=len(keys_P) - 1)
            owner_P = np.where(keys_P[index_P] == owner_P, parents_P[index_P], owner_P)
        order = np.argsort(owner_P, kind="stable")
        samples_S, first_S = np.unique(owner_P[order], return_index=True)
        return cls(
            index,
            tower,
            level,
            samples_S,
            np.append(first_S, len(owner_P)),
            np.concatenate(segment_numbers)[order],
            np.concatenate(positions)[order],
            segments,
            all_segments,
        )

    def __len__(self) -> int:
        return len(self.samples_S)

    @property
    def current(self) -> bool:
        """Whether the index has not changed since."""
        return self.all_segments == tuple(self.index.segments)

    def scores(self, terms: Terms, samples_C: np.ndarray) -> np.ndarray:
        """(C,) exact scores of some samples: over a query's tokens, the mean of the best product with a piece.

        Args:
            terms: of the query; their scores are added up by weight.
            samples_C: fingerprints of the samples.
        """
        index_C = np.searchsorted(self.samples_S, samples_C)
        index_C = np.minimum(index_C, len(self) - 1)
        present = np.flatnonzero(self.samples_S[index_C] == samples_C) if len(self) else np.zeros(0, np.int64)
        scores_C = np.full(len(samples_C), NOTHING * sum(abs(weight) for _, weight in terms))
        for chosen in self._chunks(present, index_C):
            first_C, last_C = self.offsets_S1[index_C[chosen]], self.offsets_S1[index_C[chosen] + 1]
            rows_P = np.concatenate([np.arange(first, last) for first, last in zip(first_C, last_C, strict=True)])
            starts_C = np.append(0, np.cumsum(last_C - first_C)[:-1])
            vectors_PD = self._vectors(rows_P)
            scores_C[chosen] = sum(
                weight * np.maximum.reduceat(vectors_PD @ tokens_TD.T, starts_C, axis=0).mean(1)
                for tokens_TD, weight in terms
            )
        return scores_C

    def _chunks(self, present: np.ndarray, index_C: np.ndarray) -> Iterator[np.ndarray]:
        """The indices in ``present``, so many at a time that they have at most about :data:`CHUNK` pieces."""
        if not len(present):
            return
        counts = np.diff(self.offsets_S1)[index_C[present]]
        yield from np.split(present, np.flatnonzero(np.diff(np.cumsum(counts) // CHUNK)) + 1)

    def _vectors(self, rows_P: np.ndarray) -> np.ndarray:
        vectors_PD = np.empty((len(rows_P), self.index.model.dim), np.float32)
        segment_P, position_P = self.segment_P[rows_P], self.position_P[rows_P]
        for number in np.unique(segment_P):
            inside = segment_P == number
            vectors_PD[inside] = self.segments[number].collection.vectors_ND[position_P[inside]]
        return vectors_PD

    def candidates(self, terms: Terms, per_token: int, where: Where | None = None) -> list[Hit]:
        """The samples of the nearest pieces of each token, in the order in which they were added, all with score 0.

        Args:
            terms: of the query; those with a negative weight name no candidates.
            per_token: number of pieces for each token.
            where: only samples that it matches.

        Raises:
            UserError: no term has a positive weight.
        """
        positive = [tokens_TD for tokens_TD, weight in terms if weight > 0]
        if not positive:
            raise UserError("candidates by pieces need a term of positive weight; add one, or drop by_pieces")
        tokens_TD = np.concatenate(positive)
        samples = [
            (segment, segment.mask(where, _nothing_inherited))
            for segment in self.all_segments
            if segment.entry.tower == self.tower and not segment.entry.level
        ]
        allowed_S = None
        if where is not None:
            keys = [segment.collection.fingerprints_by_position("keys")[mask.positions] for segment, mask in samples]
            allowed_S = np.isin(self.samples_S, np.concatenate([np.zeros(0, np.int64), *keys]))
        nearest: list[np.ndarray] = []
        for number, segment in enumerate(self.segments):
            mask = segment.alive if allowed_S is None else self._mask(number, allowed_S)
            _, positions_TK = segment.neighbours.search(tokens_TD, per_token, mask)
            nearest.append(self._samples_of(number, np.unique(positions_TK)))
        chosen = np.unique(np.concatenate(nearest)).tolist()
        return [
            segment.hit(position, 0.0)
            for segment, mask in samples
            for position in sorted(p for positions in segment.living("keys", chosen).values() for p in positions)
            if mask.allowed_N[position]
        ]

    def _mask(self, segment: int, allowed_S: np.ndarray) -> Mask:
        """The pieces of a segment that are of some samples."""
        allowed_P = np.repeat(allowed_S, np.diff(self.offsets_S1))
        allowed_N = np.zeros(len(self.segments[segment].alive.allowed_N), bool)
        allowed_N[self.position_P[(self.segment_P == segment) & allowed_P]] = True
        return Mask(allowed_N)

    def _samples_of(self, segment: int, positions: np.ndarray) -> np.ndarray:
        """Fingerprints of the samples that the pieces at some positions of a segment are of."""
        inside = np.flatnonzero(self.segment_P == segment)
        chosen = inside[np.isin(self.position_P[inside], positions)]
        sample: np.ndarray = self.samples_S[np.searchsorted(self.offsets_S1, chosen, side="right") - 1]
        return sample

    def rerank(self, hits: Sequence[Hit], terms: Terms) -> list[Hit]:
        """Hits by their exact scores, best first; hits with equal scores stay in their order."""
        scores_C = self.scores(terms, np.array([hit.row.key for hit in hits], np.int64))
        order = np.argsort(-scores_C, kind="stable")
        return [replace(hits[index], score=float(scores_C[index])) for index in order]


def _nothing_inherited(row: Row) -> Mapping[str, str]:
    """Samples are no pieces."""
    return {}
