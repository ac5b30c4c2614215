"""Nearest neighbours by inner product: exactly, or in some of the lists of an inverted file.

``sq8`` scans 8-bit codes, and compares what may be among the nearest in float32. The codes' error is bounded, so that
answers are those of an exhaustive search; ``ivfsq8`` does the same within the lists whose centroids are nearest.

Shapes: Q queries, N vectors, D width, K neighbours, C candidates, L lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from ..core.errors import UserError
from ..core.extras import needs_extra
from ..data.storage import Format
from .quantized import BLOCK, Quantizer, has_integer_products, integer_products, rounding

Kind = Literal["flat", "sq8", "ivfsq8", "hnsw", "ivf"]
"""``hnsw`` and ``ivf``, with float32 vectors, are of earlier versions; they are read, and no longer built."""
STRUCTURE, QUANTIZER = "faiss.index", "quantizer.json"
REMEDY = "restore it from a copy, or build the index again from its collections (hrt-mm index build)"
QUANTIZER_FORMAT = Format("a segment with 8-bit codes", REMEDY, schema=2)
FILES: dict[Kind, frozenset[str]] = {
    "flat": frozenset(),
    "sq8": frozenset({STRUCTURE, QUANTIZER}),
    "ivfsq8": frozenset({STRUCTURE, QUANTIZER}),
    "hnsw": frozenset({STRUCTURE}),
    "ivf": frozenset({STRUCTURE}),
}
"""The files of each structure."""
FEW = 2_000
"""Number of allowed vectors up to which they are compared one by one."""
WIDEST = 4_096
"""Candidates per query, above which all vectors are compared in float32."""
PROBED = (10, 100)
"""Numbers of results for which lists to probe are chosen. For more, search is exhaustive."""
_BATCH = 8
"""Number of queries from which a matrix product is faster than a scan each."""
_FIRST = 4_096
_HNSW_CANDIDATES = 128


@dataclass(frozen=True)
class Tuning:
    """How many lists are probed, and the recall that this has.

    Args:
        target: recall that was asked for.
        recall: share of the true 10 nearest neighbours among 10 results, measured on queries that the numbers of lists
            were not chosen by.
        queries: number of those queries.
        probes: number of lists for up to 10 results, and for up to 100.
    """

    target: float
    recall: float
    queries: PositiveInt
    probes: tuple[PositiveInt, PositiveInt]

    def lists(self, k: int) -> int | None:
        """Number of lists to probe for K results; None for all."""
        return next((count for most, count in zip(PROBED, self.probes, strict=True) if k <= most), None)


class Mask:
    """The vectors that a search may return.

    Args:
        allowed_N: bool.
    """

    def __init__(self, allowed_N: np.ndarray) -> None:
        self.allowed_N = allowed_N
        self.count = int(allowed_N.sum())

    @property
    def full(self) -> bool:
        """Whether it allows every vector."""
        return self.count == len(self.allowed_N)

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions of the allowed vectors, ascending."""
        return np.flatnonzero(self.allowed_N)

    @cached_property
    def selector(self) -> Any:
        """The form that faiss takes; None if it allows every vector."""
        if self.full:
            return None
        return load_faiss("sq8").IDSelectorBitmap(np.packbits(self.allowed_N, bitorder="little"))


class Neighbours:
    """Searches one segment.

    Args:
        vectors_ND: of the segment.
        kind: of its structure.
        folder: of the structure, which is memory-mapped at the first search.
        tuning: of lists.
    """

    def __init__(self, vectors_ND: np.ndarray, kind: Kind, folder: Path, tuning: Tuning | None = None) -> None:
        self.vectors_ND, self.kind, self.folder, self.tuning = vectors_ND, kind, folder, tuning
        self._widening = 1

    @property
    def recall(self) -> float | None:
        """Measured recall of 10 neighbours: 1 of exact search, and None of structures of earlier versions."""
        return 1.0 if self.kind in ("flat", "sq8") else self.tuning.recall if self.tuning else None

    def search(
        self, queries_QD: np.ndarray, k: int, mask: Mask | None = None, *, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors, best first; of equal ones the first.

        Args:
            queries_QD: float32.
            k: number of neighbours.
            mask: vectors to return; all if absent.
            exact: search exhaustively, whatever the structure.

        Returns:
            (Q, K) scores and (Q, K) positions; K is at most the number of allowed vectors.

        Raises:
            UserError: the files are damaged.
        """
        mask = Mask(np.ones(len(self.vectors_ND), bool)) if mask is None else mask
        k = min(k, mask.count)
        if k <= 0 or not len(queries_QD):
            return np.zeros((len(queries_QD), max(k, 0)), np.float32), np.zeros((len(queries_QD), max(k, 0)), np.int64)
        queries_QD = np.ascontiguousarray(queries_QD, np.float32)
        if self.kind == "flat" or mask.count <= FEW or 2 * k > mask.count:
            return self._float32(queries_QD, k, mask)
        if self.kind in ("hnsw", "ivf"):
            return self._float32(queries_QD, k, mask) if exact else self._earlier(queries_QD, k, mask)
        if self.kind == "ivfsq8" and not exact and self.tuning and (probes := self.tuning.lists(k)):
            return self.probed(queries_QD, k, mask, probes)
        return self._scanned(queries_QD, k, mask)

    # Exact search in float32.

    def _float32(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        bound_Q = rounding(np.linalg.norm(queries_QD.astype(np.float64), axis=1), self._norm, queries_QD.shape[1])
        few = 4 * mask.count < len(mask.allowed_N)

        def scores(first: int, last: int) -> np.ndarray:
            block_ND = self.vectors_ND[mask.positions[first:last] if few else slice(first, last)]
            scores_QN: np.ndarray = queries_QD @ block_ND.T
            return scores_QN

        if not few:
            candidates = _candidates(scores, len(self.vectors_ND), len(queries_QD), k, 2 * bound_Q, mask)
        else:
            candidates = (
                mask.positions[positions]
                for positions in _candidates(scores, mask.count, len(queries_QD), k, 2 * bound_Q, None)
            )
        return self._best_of(queries_QD, candidates, k)

    @cached_property
    def _norm(self) -> float:
        """Largest length of a vector."""
        norms = [
            float(np.linalg.norm(self.vectors_ND[first : first + BLOCK].astype(np.float64), axis=1).max())
            for first in range(0, len(self.vectors_ND), BLOCK)
        ]
        if not np.isfinite(norms).all():
            for first in range(0, len(self.vectors_ND), BLOCK):
                bad = np.flatnonzero(~np.isfinite(self.vectors_ND[first : first + BLOCK]).all(1))
                if bad.size:
                    raise UserError(f"{self.folder} is damaged: the vector at {first + bad[0]} is not finite; {REMEDY}")
        return max(norms)

    # Exact search with 8-bit codes.

    def _scanned(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "sq8" and len(queries_QD) >= _BATCH and has_integer_products():
            return self._multiplied(queries_QD, k, mask)
        if self.kind == "sq8":
            parameters = load_faiss(self.kind).SearchParameters(sel=mask.selector)

            def search(rows: np.ndarray, codes_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
                return self.structure.search(codes_QD, count, params=parameters)
        else:
            lists = np.arange(len(self.centroids_LD))[None]

            def search(rows: np.ndarray, codes_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
                return self._in_lists(codes_QD, count, lists.repeat(len(codes_QD), 0), mask)

        return self._widened(queries_QD, k, mask, search)

    def _multiplied(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        """By products of integer matrices."""
        quantized = self.quantizer.queries(queries_QD)
        # The tolerance in units of integer products, on both sides.
        tolerance_Q = 2 * quantized.bound_Q / quantized.unit_Q

        def scores(first: int, last: int) -> np.ndarray:
            return integer_products(quantized.codes_QD, self._bytes_ND[first:last])

        candidates = _candidates(scores, len(self.vectors_ND), len(queries_QD), k, tolerance_Q, mask)
        return self._best_of(queries_QD, candidates, k)

    def _best_of(
        self, queries_QD: np.ndarray, candidates: Iterator[np.ndarray], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        scores_QK = np.empty((len(queries_QD), k), np.float32)
        positions_QK = np.empty((len(queries_QD), k), np.int64)
        for number, positions in enumerate(candidates):
            scores = self._exact_scores(queries_QD[number : number + 1], positions[None])[0]
            order = np.argsort(-scores, kind="stable")[:k]
            scores_QK[number], positions_QK[number] = scores[order], positions[order]
        return scores_QK, positions_QK

    def _exact_scores(self, queries_QD: np.ndarray, positions_QC: np.ndarray) -> np.ndarray:
        """(Q, C) inner products in float32. Those of equal vectors are equal, as a matrix product's may not be."""
        scores_QC: np.ndarray = np.einsum("qcd,qd->qc", self.vectors_ND[positions_QC], queries_QD)
        if not np.isfinite(scores_QC).all():
            position = int(positions_QC[~np.isfinite(scores_QC)][0])
            raise UserError(f"{self.folder} is damaged: the vector at {position} is not finite; {REMEDY}")
        return scores_QC

    def _widened(
        self,
        queries_QD: np.ndarray,
        k: int,
        mask: Mask,
        search: Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]],
        certainty: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of what a search over codes covers, by asking it for so many that no other can be nearer.

        Args:
            queries_QD: the queries.
            k: number of neighbours.
            mask: of the search.
            search: gives the best products of codes, best first, and their positions, -1 for none, of the queries at
                some positions with some codes.
            certainty: share of the bound on errors to allow for; 1 to be certain.
        """
        scores_QK = np.full((len(queries_QD), k), -np.inf, np.float32)
        positions_QK = np.full((len(queries_QD), k), -1, np.int64)
        quantized = self.quantizer.queries(queries_QD)
        factor, rows = self._widening, np.arange(len(queries_QD))
        while rows.size:
            count = min(factor * max(48, 3 * k), mask.count)
            if count > WIDEST and count > 3 * k:
                scores_QK[rows], positions_QK[rows] = self._float32(queries_QD[rows], k, mask)
                break
            codes_QD = quantized.codes_QD[rows]
            products_QC, candidates_QC = search(rows, codes_QD, count)
            if candidates_QC.max(initial=-1) >= len(self.vectors_ND):
                raise UserError(
                    f"{self.folder / STRUCTURE} is damaged: it names a vector that does not exist; {REMEDY}"
                )
            best_QK, best_positions_QK = self._ranked(queries_QD[rows], candidates_QC, k)
            left_out_Q = quantized.constant_Q[rows] + quantized.unit_Q[rows] * products_QC[:, -1]
            proven_Q = (best_QK[:, -1] > left_out_Q + certainty * quantized.bound_Q[rows]) | (candidates_QC[:, -1] < 0)
            proven_Q |= count == mask.count
            scores_QK[rows[proven_Q]], positions_QK[rows[proven_Q]] = best_QK[proven_Q], best_positions_QK[proven_Q]
            rows = rows[~proven_Q]
            if 2 * rows.size > len(queries_QD):
                self._widening = min(4 * factor, 16)
            factor *= 4
        return scores_QK, positions_QK

    def _ranked(self, queries_QD: np.ndarray, candidates_QC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores_QK = np.empty((len(queries_QD), k), np.float32)
        positions_QK = np.empty((len(queries_QD), k), np.int64)
        step = max(1, 2**22 // (candidates_QC.shape[1] * queries_QD.shape[1]))
        for first in range(0, len(queries_QD), step):
            positions_QC = candidates_QC[first : first + step]
            scores_QC = self._exact_scores(queries_QD[first : first + step], positions_QC)
            scores_QC[positions_QC < 0] = -np.inf
            order_QK = np.lexsort((positions_QC, -scores_QC))[:, :k]
            rows_Q1 = np.arange(len(order_QK))[:, None]
            scores_QK[first : first + step] = scores_QC[rows_Q1, order_QK]
            positions_QK[first : first + step] = positions_QC[rows_Q1, order_QK]
        return scores_QK, positions_QK

    # Search in some lists.

    def probed(self, queries_QD: np.ndarray, k: int, mask: Mask, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """Searches the lists whose centroids are nearest. A list counts by the share of its vectors that is allowed.

        Hence removals and filters do not reduce recall: with half of all vectors allowed, twice as many lists are
        searched. If these hold half of all vectors, or fewer than K allowed ones, search is exhaustive.
        """
        nearness_QL = queries_QD @ self.centroids_LD.T
        if mask.full:
            lists_QP = np.argpartition(-nearness_QL, probes - 1, 1)[:, :probes]
            covered_Q = self.sizes_L[lists_QP].sum(1)
        else:
            living_L = self._living(mask)
            order_QL = np.argsort(-nearness_QL, 1)
            share_L = living_L / np.maximum(self.sizes_L, 1)
            chosen_QL = (np.cumsum(share_L[order_QL], 1) - share_L[order_QL] < probes) & (living_L[order_QL] > 0)
            most = int(chosen_QL.sum(1).max())
            first_QP = np.argsort(~chosen_QL, 1, kind="stable")[:, :most]
            lists_QP = np.take_along_axis(np.where(chosen_QL, order_QL, -1), first_QP, 1)
            covered_Q = np.where(lists_QP >= 0, living_L[lists_QP], 0).sum(1)
        all_Q = (covered_Q < k) | (2 * np.where(lists_QP >= 0, self.sizes_L[lists_QP], 0).sum(1) > len(self.vectors_ND))
        if not all_Q.any():
            return self._near(queries_QD, k, mask, lists_QP)
        scores_QK = np.empty((len(queries_QD), k), np.float32)
        positions_QK = np.empty((len(queries_QD), k), np.int64)
        scores_QK[all_Q], positions_QK[all_Q] = self._scanned(queries_QD[all_Q], k, mask)
        if not all_Q.all():
            near = self._near(queries_QD[~all_Q], k, mask, lists_QP[~all_Q])
            scores_QK[~all_Q], positions_QK[~all_Q] = near
        return scores_QK, positions_QK

    def _near(self, queries_QD: np.ndarray, k: int, mask: Mask, lists_QP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest within some lists of each query."""

        def search(rows: np.ndarray, codes_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            return self._in_lists(codes_QD, count, lists_QP[rows], mask)

        # Errors are rarely near their bound, and recall is measured with them.
        return self._widened(queries_QD, k, mask, search, certainty=0.125)

    def _in_lists(
        self, codes_QD: np.ndarray, count: int, lists_QP: np.ndarray, mask: Mask
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = load_faiss(self.kind)
        parameters = faiss.SearchParametersIVF(nprobe=lists_QP.shape[1], sel=mask.selector)
        lists_QP = np.ascontiguousarray(lists_QP, np.int64)
        codes_QD, nearness_QP = np.ascontiguousarray(codes_QD), np.zeros(lists_QP.shape, np.float32)
        products_QC = np.empty((len(codes_QD), count), np.float32)
        positions_QC = np.empty((len(codes_QD), count), np.int64)
        # The Python form of search_preassigned takes no parameters.
        arrays = (faiss.swig_ptr(values) for values in (lists_QP, nearness_QP, products_QC, positions_QC))
        self.structure.search_preassigned_c(len(codes_QD), faiss.swig_ptr(codes_QD), count, *arrays, False, parameters)
        return products_QC, positions_QC

    def _living(self, mask: Mask) -> np.ndarray:
        """(L,) number of allowed vectors in each list."""
        if (cached := mask.__dict__.get("living_L")) is None:
            cached = np.bincount(self.list_of_N[mask.allowed_N], minlength=len(self.sizes_L))
            mask.__dict__["living_L"] = cached
        return cached

    @cached_property
    def list_of_N(self) -> np.ndarray:
        faiss, lists = load_faiss(self.kind), self.structure.invlists
        list_of_N = np.zeros(len(self.vectors_ND), np.int32)
        for number, size in enumerate(self.sizes_L.tolist()):
            if size:
                list_of_N[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return list_of_N

    @cached_property
    def centroids_LD(self) -> np.ndarray:
        """(L, D) centroids of the lists."""
        centroids_LD: np.ndarray = self.structure.quantizer.reconstruct_n(0, self.structure.nlist)
        return centroids_LD

    @cached_property
    def sizes_L(self) -> np.ndarray:
        """(L,) number of vectors in each list."""
        lists = self.structure.invlists
        return np.array([lists.list_size(number) for number in range(lists.nlist)])

    # Structures of earlier versions.

    def _earlier(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        faiss = load_faiss(self.kind)
        count = max(_HNSW_CANDIDATES, -(-2 * k * len(mask.allowed_N) // mask.count))
        if 4 * count > mask.count or 2 * mask.count < len(mask.allowed_N):
            return self._float32(queries_QD, k, mask)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=count)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(8, self.structure.nlist // 16))
        _, candidates_QC = self.structure.search(queries_QD, count, params=parameters)
        if candidates_QC.max(initial=-1) >= len(self.vectors_ND):
            raise UserError(f"{self.folder / STRUCTURE} is damaged: it names a vector that does not exist; {REMEDY}")
        candidates_QC = np.where(mask.allowed_N[candidates_QC], candidates_QC, -1)
        scores_QK, positions_QK = self._ranked(queries_QD, candidates_QC, k)
        if (incomplete := np.flatnonzero((candidates_QC >= 0).sum(1) < k)).size:
            scores_QK[incomplete], positions_QK[incomplete] = self._float32(queries_QD[incomplete], k, mask)
        return scores_QK, positions_QK

    # Files.

    @cached_property
    def quantizer(self) -> Quantizer:
        """The map from vectors to codes."""
        return Quantizer.read(self.folder / QUANTIZER, QUANTIZER_FORMAT, self.vectors_ND.shape[1])

    @cached_property
    def structure(self) -> Any:
        """The faiss index, memory-mapped."""
        faiss, path = load_faiss(self.kind), self.folder / STRUCTURE
        lists = self.kind in ("ivf", "ivfsq8")
        try:
            index = faiss.read_index(
                str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if lists else faiss.IO_FLAG_MMAP_IFC
            )
        except (RuntimeError, MemoryError) as error:
            raise UserError(f"{path} cannot be read: {error}; {REMEDY}") from error
        if (index.ntotal, index.d) != self.vectors_ND.shape:
            raise UserError(f"{path} is damaged: it holds {index.ntotal} vectors of {index.d} numbers; {REMEDY}")
        return index

    @cached_property
    def _bytes_ND(self) -> np.ndarray:
        """(N, D) the codes as faiss stores them."""
        size = self.vectors_ND.size
        data: np.ndarray = load_faiss(self.kind).rev_swig_ptr(self.structure.codes.data(), size)
        return data.reshape(self.vectors_ND.shape)


def _candidates(
    scores: Callable[[int, int], np.ndarray],
    total: int,
    queries: int,
    k: int,
    tolerance_Q: np.ndarray,
    mask: Mask | None,
) -> Iterator[np.ndarray]:
    """Positions of each query that may be among the K best, ascending: those at most a tolerance below the K-th.

    Args:
        scores: gives (Q, N) scores of a range of positions.
        total: number of positions.
        queries: number of queries.
        k: number of neighbours, at most that of allowed positions.
        tolerance_Q: how far the order of scores may be from the true one.
        mask: allowed positions; all if absent.
    """
    near_positions = [np.zeros(0, np.int64) for _ in range(queries)]
    near_scores = [np.zeros(0, np.float64) for _ in range(queries)]
    threshold_Q = np.full(queries, -np.inf)
    # The first block is small: it has no threshold yet, so that all of its scores are candidates.
    edges = [0, *range(min(_FIRST, total), total, BLOCK), total]
    for first, last in pairwise(edges):
        if mask is not None and not mask.allowed_N[first:last].any():
            continue
        scores_QN = scores(first, last)
        for number in range(queries):
            offsets = np.flatnonzero(scores_QN[number] >= threshold_Q[number])
            if mask is not None and not mask.full:
                offsets = offsets[mask.allowed_N[first + offsets]]
            if not offsets.size:
                continue
            positions = np.concatenate([near_positions[number], offsets + first])
            values = np.concatenate([near_scores[number], scores_QN[number][offsets]])
            if len(values) > k:
                threshold = np.partition(values, len(values) - k)[len(values) - k] - tolerance_Q[number]
                threshold_Q[number] = threshold
                near = values >= threshold
                positions, values = positions[near], values[near]
            near_positions[number], near_scores[number] = positions, values
    return iter(near_positions)


@cache
def load_faiss(kind: str) -> Any:
    """Imports faiss.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("retrieval", f"an index of kind {kind}"):
        import faiss

    return faiss
