"""Nearest neighbours by inner product: exactly, or with a faiss index.

Shapes: Q queries, N vectors, D width, K neighbours, C candidates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import UserError
from ..core.extras import needs_extra

Kind = Literal["flat", "hnsw", "ivf"]
STRUCTURE = "faiss.index"
FLAT_UP_TO, HNSW_UP_TO = 20_000, 200_000
"""Segment sizes up to which search is exhaustive, or by an HNSW graph. Larger segments use inverted lists."""
LINKS, SEARCH_CANDIDATES, BUILD_CANDIDATES = 32, 128, 80
"""HNSW parameters: links per vector, candidates in a search, and candidates during construction."""
ALWAYS_EXACT = 2_000
"""Number of vectors below which search is exhaustive even with a structure."""
REMEDY = "restore it from a copy, or build the index again from its collections (hrt-mm index build)"
_CHUNK = 65_536


def kind_for(count: int) -> Kind:
    """The structure for a number of vectors."""
    return "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivf"


def build(vectors_ND: np.ndarray, kind: Kind, folder: Path) -> None:
    """Builds the search structure of a segment. Exact search (``flat``) has none.

    Args:
        vectors_ND: float32, possibly memory-mapped.
        kind: of the structure.
        folder: to write :data:`STRUCTURE` to.

    Raises:
        UserError: faiss is not installed, or cannot write the file.
    """
    if kind == "flat":
        return
    faiss = load_faiss(kind)
    try:
        faiss.write_index(_faiss_index(faiss, vectors_ND, kind), str(folder / STRUCTURE))
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"faiss cannot write {folder / STRUCTURE}: {error}; check that there is enough memory and disk space"
        ) from error


def _faiss_index(faiss: Any, vectors_ND: np.ndarray, kind: Kind) -> Any:
    count, dim = vectors_ND.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_CANDIDATES
    else:
        lists = min(count, max(1, round(2 * count**0.5)))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        training_positions = np.random.default_rng(0).permutation(count)[: 64 * lists]
        index.train(np.ascontiguousarray(vectors_ND[np.sort(training_positions)]))
    for first in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(vectors_ND[first : first + _CHUNK]))
    return index


class Neighbours:
    """Searches one segment.

    Args:
        vectors_ND: of the segment.
        kind: of its structure.
        folder: of the structure, which is memory-mapped at the first search.
        removed: (R,) distinct positions to exclude.
    """

    def __init__(self, vectors_ND: np.ndarray, kind: Kind, folder: Path, removed: np.ndarray) -> None:
        self.vectors_ND, self.kind, self.folder = vectors_ND, kind, folder
        self.alive_N = np.ones(len(vectors_ND), bool)
        self.alive_N[removed] = False
        self.living = len(vectors_ND) - len(removed)
        self._index: Any = None

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors that were not removed, best first.

        The structure returns removed vectors too. If fewer than K others are among its candidates, or if few vectors
        remain in total, search is exhaustive, so that removals do not reduce recall.

        Returns:
            (Q, K) scores and (Q, K) positions; K is at most the number of remaining vectors.

        Raises:
            UserError: the files are damaged.
        """
        k = min(k, self.living)
        if k <= 0:
            return np.zeros((len(queries_QD), 0), np.float32), np.zeros((len(queries_QD), 0), np.int64)
        queries_QD = np.ascontiguousarray(queries_QD, np.float32)
        candidates = max(SEARCH_CANDIDATES, math.ceil(2 * k * len(self.alive_N) / self.living))
        if self.kind == "flat" or self.living < ALWAYS_EXACT or 4 * candidates > self.living:
            return self._exact(queries_QD, k)
        scores_QK, positions_QK, remaining_Q = self._approximate(queries_QD, k, candidates)
        if (incomplete := np.flatnonzero(remaining_Q < k)).size:
            scores_QK[incomplete], positions_QK[incomplete] = self._exact(queries_QD[incomplete], k)
        return scores_QK, positions_QK

    def _exact(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.float32)
        positions_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.int64)
        for first in range(0, len(self.vectors_ND), _CHUNK):
            block_ND = self.vectors_ND[first : first + _CHUNK]
            positions_N = np.flatnonzero(self.alive_N[first : first + _CHUNK])
            if len(positions_N) < len(block_ND):
                block_ND = block_ND[positions_N]
            scores_QN = queries_QD @ block_ND.T
            if not np.isfinite(scores_QN).all():
                position = int(positions_N[np.flatnonzero(~np.isfinite(scores_QN).all(0))[0]]) + first
                raise UserError(f"{self.folder} is damaged: the vector at {position} is not finite; {REMEDY}")
            scores_QK = np.concatenate([scores_QK, scores_QN], 1)
            positions_QK = np.concatenate([positions_QK, np.broadcast_to(positions_N + first, scores_QN.shape)], 1)
            order = np.stack([_top(scores, k) for scores in scores_QK])
            scores_QK = np.take_along_axis(scores_QK, order, 1)
            positions_QK = np.take_along_axis(positions_QK, order, 1)
        return scores_QK, positions_QK

    def _approximate(
        self, queries_QD: np.ndarray, k: int, candidates: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(Q, K) scores and positions of remaining vectors among the candidates, and (Q,) their number."""
        faiss = load_faiss(self.kind)
        index = self._opened(faiss)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=candidates)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(8, index.nlist // 16))
        scores_QC, positions_QC = index.search(queries_QD, candidates, params=parameters)
        if positions_QC.max(initial=-1) >= len(self.alive_N):
            raise UserError(f"{self.folder / STRUCTURE} is damaged: it names a vector that does not exist; {REMEDY}")
        remaining_QC = (positions_QC >= 0) & self.alive_N[positions_QC]
        order_QK = np.argsort(~remaining_QC, 1, kind="stable")[:, :k]
        scores_QK, positions_QK = (
            np.take_along_axis(values_QC, order_QK, 1) for values_QC in (scores_QC, positions_QC)
        )
        return scores_QK, positions_QK, remaining_QC.sum(1)

    def _opened(self, faiss: Any) -> Any:
        if self._index is None:
            flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if self.kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
            path = self.folder / STRUCTURE
            try:
                index = faiss.read_index(str(path), flags)
            except (RuntimeError, MemoryError) as error:
                raise UserError(f"{path} cannot be read: {error}; {REMEDY}") from error
            if (index.ntotal, index.d) != self.vectors_ND.shape:
                raise UserError(f"{path} is damaged: it holds {index.ntotal} vectors of {index.d} numbers; {REMEDY}")
            self._index = index
        return self._index


def _top(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k highest scores, in order. Ties are broken by position."""
    if k < len(scores_N):
        threshold = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        positions = np.flatnonzero(scores_N >= threshold)
    else:
        positions = np.arange(len(scores_N))
    return positions[np.argsort(-scores_N[positions], kind="stable")[:k]]


def load_faiss(kind: str) -> Any:
    """Imports faiss.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("retrieval", f"an index of kind {kind}"):
        import faiss

    return faiss
