"""The nearest of many vectors by inner product: exactly, or through a structure of faiss.

Shapes: Q queries, N vectors, D width, K neighbours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UserError

Kind = Literal["flat", "hnsw", "ivf"]
STRUCTURE = "faiss.index"
FLAT_UP_TO, HNSW_UP_TO = 20_000, 200_000
"""Vectors of a segment that are searched one by one, and through a graph; more are searched through lists."""
LINKS, BREADTH, WHILE_BUILT = 32, 128, 80
"""Of the graph: links a vector, candidates in a search, and candidates while it is built."""
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
        UserError: faiss is not installed.
    """
    if kind == "flat":
        return
    faiss = load_faiss(kind)
    count, dim = vectors_ND.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = WHILE_BUILT
    else:
        lists = max(1, round(2 * count**0.5))
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = 64
        chosen = np.random.default_rng(0).permutation(count)[: 64 * lists]
        index.train(np.ascontiguousarray(vectors_ND[np.sort(chosen)]))
    for first in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(vectors_ND[first : first + _CHUNK]))
    faiss.write_index(index, str(folder / STRUCTURE))


class Neighbours:
    """Searches one segment.

    Args:
        vectors_ND: its vectors.
        kind: of its structure.
        folder: where that lies; it is opened at the first search, and mapped, not read.
        removed: (R,) places that are not to be found.
    """

    def __init__(self, vectors_ND: np.ndarray, kind: Kind, folder: Path, removed: np.ndarray) -> None:
        self.vectors_ND, self.kind, self.folder, self.removed = vectors_ND, kind, folder, removed
        self._index: Any = None

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors, best first.

        Returns:
            (Q, K) scores and (Q, K) places, -1 where there are fewer than k.
        """
        k = min(k, len(self.vectors_ND) - len(self.removed))
        if k <= 0:
            return np.zeros((len(queries_QD), 0), np.float32), np.zeros((len(queries_QD), 0), np.int64)
        return self._exact(queries_QD, k) if self.kind == "flat" else self._through(queries_QD, k)

    def _exact(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.float32)
        places_QK: np.ndarray = np.zeros((len(queries_QD), 0), np.int64)
        for first in range(0, len(self.vectors_ND), _CHUNK):
            scores_QN = queries_QD @ self.vectors_ND[first : first + _CHUNK].T
            gone = self.removed[(self.removed >= first) & (self.removed < first + _CHUNK)] - first
            scores_QN[:, gone] = -np.inf
            places_QN = np.broadcast_to(np.arange(first, first + scores_QN.shape[1]), scores_QN.shape)
            scores_QK = np.concatenate([scores_QK, scores_QN], 1)
            places_QK = np.concatenate([places_QK, places_QN], 1)
            order = np.stack([_first(scores, k) for scores in scores_QK])
            scores_QK = np.take_along_axis(scores_QK, order, 1)
            places_QK = np.take_along_axis(places_QK, order, 1)
        return scores_QK, places_QK

    def _through(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = load_faiss(self.kind)
        if self._index is None:
            flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if self.kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
            try:
                self._index = faiss.read_index(str(self.folder / STRUCTURE), flags)
            except RuntimeError as error:
                raise UserError(f"{self.folder / STRUCTURE} cannot be read: {error}") from error
        options: dict[str, Any] = {}
        if len(self.removed):
            batch = faiss.IDSelectorBatch(self.removed)
            options["sel"] = faiss.IDSelectorNot(batch)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(BREADTH, 2 * k), **options)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(8, self._index.nlist // 16), **options)
        scores_QK, places_QK = self._index.search(np.ascontiguousarray(queries_QD, np.float32), k, params=parameters)
        return scores_QK, places_QK


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
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"an index of kind {kind} needs faiss: pip install 'hrt-mm[retrieval]'") from error
    return faiss
