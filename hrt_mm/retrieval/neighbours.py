"""The nearest of many vectors by inner product: exactly, or through a structure of faiss.

Shapes: Q queries, N vectors, D width, K neighbours.
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
"""Vectors of a segment that are searched one by one, and through a graph; more are searched through lists."""
LINKS, BREADTH, WHILE_BUILT = 32, 128, 80
"""Of the graph: links a vector, candidates in a search, and candidates while it is built."""
FEW = 2_000
"""Vectors that are compared one by one even where there is a structure."""
REMEDY = "restore it from a copy, or build the index anew from its collections (hrt-mm index build)"
_CHUNK = 65_536


def kind_for(count: int) -> Kind:
    """What suits so many vectors."""
    return "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivf"


def build(vectors_ND: np.ndarray, kind: Kind, folder: Path) -> None:
    """Builds the structure of a segment; exact search needs none.

    Args:
        vectors_ND: float32, may be a memory map.
        kind: which one.
        folder: where :data:`STRUCTURE` is written.

    Raises:
        UserError: faiss is not installed, or cannot write it.
    """
    if kind == "flat":
        return
    faiss = load_faiss(kind)
    try:
        faiss.write_index(_built(faiss, vectors_ND, kind), str(folder / STRUCTURE))
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"faiss cannot write {folder / STRUCTURE}: {error}; see whether memory and the disk have room for it"
        ) from error


def _built(faiss: Any, vectors_ND: np.ndarray, kind: Kind) -> Any:
    count, dim = vectors_ND.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = WHILE_BUILT
    else:
        lists = min(count, max(1, round(2 * count**0.5)))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        chosen = np.random.default_rng(0).permutation(count)[: 64 * lists]
        index.train(np.ascontiguousarray(vectors_ND[np.sort(chosen)]))
    for first in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(vectors_ND[first : first + _CHUNK]))
    return index


class Neighbours:
    """Searches one segment.

    Args:
        vectors_ND: its vectors.
        kind: of its structure.
        folder: where that lies; it is opened at the first search, and mapped, not read.
        removed: (R,) places that are not to be found, each once.
    """

    def __init__(self, vectors_ND: np.ndarray, kind: Kind, folder: Path, removed: np.ndarray) -> None:
        self.vectors_ND, self.kind, self.folder = vectors_ND, kind, folder
        self.alive_N = np.ones(len(vectors_ND), bool)
        self.alive_N[removed] = False
        self.living = len(vectors_ND) - len(removed)
        self._index: Any = None

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors that were not removed, best first.

        A structure of faiss gives its nearest vectors, removed ones among them. Where fewer than K of those are left,
        or hardly any vectors at all, all that are left are compared, so that removals cost no recall.

        Returns:
            (Q, K) scores and (Q, K) places; K is the smaller of ``k`` and the number of vectors that are left.

        Raises:
            UserError: the files are damaged.
        """
        k = min(k, self.living)
        if k <= 0:
            return np.zeros((len(queries_QD), 0), np.float32), np.zeros((len(queries_QD), 0), np.int64)
        queries_QD = np.ascontiguousarray(queries_QD, np.float32)
        candidates = max(BREADTH, math.ceil(2 * k * len(self.alive_N) / self.living))
        if self.kind == "flat" or self.living < FEW or 4 * candidates > self.living:
            return self._exact(queries_QD, k)
        scores_QK, places_QK, found_Q = self._through(queries_QD, k, candidates)
        if (short := np.flatnonzero(found_Q < k)).size:
            scores_QK[short], places_QK[short] = self._exact(queries_QD[short], k)
        return scores_QK, places_QK

    def _exact(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.float32)
        places_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.int64)
        for first in range(0, len(self.vectors_ND), _CHUNK):
            block_ND = self.vectors_ND[first : first + _CHUNK]
            places_N = np.flatnonzero(self.alive_N[first : first + _CHUNK])
            if len(places_N) < len(block_ND):
                block_ND = block_ND[places_N]
            scores_QN = queries_QD @ block_ND.T
            if not np.isfinite(scores_QN).all():
                place = int(places_N[np.flatnonzero(~np.isfinite(scores_QN).all(0))[0]]) + first
                raise UserError(f"{self.folder} is damaged: the vector at {place} is not finite; {REMEDY}")
            scores_QK = np.concatenate([scores_QK, scores_QN], 1)
            places_QK = np.concatenate([places_QK, np.broadcast_to(places_N + first, scores_QN.shape)], 1)
            order = np.stack([_first(scores, k) for scores in scores_QK])
            scores_QK = np.take_along_axis(scores_QK, order, 1)
            places_QK = np.take_along_axis(places_QK, order, 1)
        return scores_QK, places_QK

    def _through(self, queries_QD: np.ndarray, k: int, candidates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(Q, K) scores and places of those among the nearest that are left, and (Q,) how many of the K there are."""
        faiss = load_faiss(self.kind)
        index = self._opened(faiss)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=candidates)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(8, index.nlist // 16))
        scores_QC, places_QC = index.search(queries_QD, candidates, params=parameters)
        if places_QC.max(initial=-1) >= len(self.alive_N):
            raise UserError(f"{self.folder / STRUCTURE} is damaged: it names a vector that is not there; {REMEDY}")
        kept_QC = (places_QC >= 0) & self.alive_N[places_QC]
        order_QK = np.argsort(~kept_QC, 1, kind="stable")[:, :k]
        scores_QK, places_QK = (np.take_along_axis(own, order_QK, 1) for own in (scores_QC, places_QC))
        return scores_QK, places_QK, kept_QC.sum(1)

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


def _first(scores_N: np.ndarray, k: int) -> np.ndarray:
    """The places of the k highest scores in order; of equal ones the earlier come first."""
    if k < len(scores_N):
        least = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        places = np.flatnonzero(scores_N >= least)
    else:
        places = np.arange(len(scores_N))
    return places[np.argsort(-scores_N[places], kind="stable")[:k]]


def load_faiss(kind: str) -> Any:
    """faiss, which indexes of many vectors need.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("retrieval", f"an index of kind {kind}"):
        import faiss

    return faiss
