"""Nearest neighbours by inner product: exactly, or in some of the lists of an inverted file.

``sq8`` scans 8-bit codes, and compares what may be among the nearest in float32. The codes' error is bounded, so that
answers are those of an exhaustive search; ``ivfsq8`` does the same within the lists whose centroids are nearest.

Shapes: Q queries, N vectors, D width, K neighbours, C candidates, L lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from pydantic import PositiveInt

from ..core.errors import UserError
from ..core.extras import needs_extra
from ..data.storage import Format
from .quantized import BLOCK, Quantizer, has_integer_products, inner_products, integer_products, rounding

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
CACHED_CODES = 64 << 20
"""Total size of a segment's codes up to which they are kept in memory, in the form that matrix products take."""
WIDEST = 4_096
"""Candidates per query, above which all vectors are compared in float32."""
PROBED = (10, 100)
"""Numbers of results for which lists to probe are chosen. For more, search is exhaustive."""
_BATCH = 8
"""Number of queries from which a matrix product is faster than a scan each."""
_FIRST, _SECOND = 1_024, 16_384
"""Vectors after which a search in blocks has its first threshold, and a better one."""
_HNSW_CANDIDATES = 128
_ONE = np.zeros(1, np.int64)
_Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


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
        self._widening, self._unproven = 1, 0.0
        self._parameters_of: dict[int, Any] = {}

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
        if len(queries_QD) < _BATCH:
            nearest = [self._compared(query_D, k, mask) for query_D in queries_QD]
            return np.stack([scores_K for scores_K, _ in nearest]), np.stack([places_K for _, places_K in nearest])
        bound_Q = rounding(np.linalg.norm(queries_QD.astype(np.float64), axis=1), self._norm, queries_QD.shape[1])
        few = 4 * mask.count < len(mask.allowed_N)

        def scores(first: int, last: int) -> np.ndarray:
            block_ND = self.vectors_ND[mask.positions[first:last] if few else slice(first, last)]
            scores_QN: np.ndarray = queries_QD @ block_ND.T
            return scores_QN

        if not few:
            candidates = _candidates(scores, len(self.vectors_ND), len(queries_QD), k, 2 * bound_Q, mask)
        else:
            candidates = [
                mask.positions[positions]
                for positions in _candidates(scores, mask.count, len(queries_QD), k, 2 * bound_Q, None)
            ]
        return self._best_of(queries_QD, candidates, k)

    def _compared(self, query_D: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        """(K,) scores and positions of the nearest to one query."""
        if 4 * mask.count < len(mask.allowed_N):
            scores_N = self._exact_scores(query_D, mask.positions)
            best_K = _top(scores_N, k)
            return scores_N[best_K], mask.positions[best_K]
        scores_N = inner_products(self.vectors_ND, query_D)
        if not np.isfinite(scores_N).all():
            self._refuse(int(np.flatnonzero(~np.isfinite(scores_N))[0]))
        if not mask.full:
            scores_N[~mask.allowed_N] = -np.inf
        best_K = _top(scores_N, k)
        return scores_N[best_K], best_K

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
                    self._refuse(first + int(bad[0]))
        return max(norms)

    def _refuse(self, position: int) -> NoReturn:
        raise UserError(f"{self.folder} is damaged: the vector at {position} is not finite; {REMEDY}")

    # Exact search with 8-bit codes.

    def _scanned(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "sq8" and has_integer_products():
            if len(queries_QD) >= _BATCH:
                return self._multiplied(queries_QD, k, mask)
            if self.vectors_ND.size <= CACHED_CODES and 2 * k <= _FIRST <= len(self.vectors_ND):
                candidates = [self._multiplied_once(query_D, k, mask) for query_D in queries_QD]
                return self._best_of(queries_QD, candidates, k)
        faiss = load_faiss(self.kind)
        if self.kind == "sq8":
            parameters = None if mask.full else faiss.SearchParameters(sel=mask.selector)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=len(self.sizes_L), sel=mask.selector)

        def search(rows: np.ndarray, codes_QD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            return self._products(codes_QD, count, parameters)

        return self._coded(queries_QD, k, mask, search, max(64, 3 * k))

    def _multiplied(self, queries_QD: np.ndarray, k: int, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
        """By products of integer matrices."""
        quantized = self.quantizer.queries(queries_QD)
        # The tolerance in units of integer products, on both sides.
        tolerance_Q = 2 * quantized.bound_Q / quantized.unit_Q

        def scores(first: int, last: int) -> np.ndarray:
            return integer_products(quantized.codes_QD, self._codes(first, last))

        candidates = _candidates(scores, len(self.vectors_ND), len(queries_QD), k, tolerance_Q, mask)
        return self._best_of(queries_QD, candidates, k)

    def _multiplied_once(self, query_D: np.ndarray, k: int, mask: Mask) -> np.ndarray:
        """(C,) positions of what may be among the nearest to one query, ascending."""
        codes_D, _, unit, bound = self.quantizer.query(query_D)
        products_N = integer_products(codes_D[None], self._all_codes)[0]
        if not mask.full:
            products_N[~mask.allowed_N] = np.iinfo(products_N.dtype).min // 2
        tolerance = math.ceil(2 * bound / unit)
        # The k-th best of some is at most that of all.
        near = np.flatnonzero(products_N >= np.partition(products_N[:_FIRST], -k)[-k] - tolerance)
        near_C = products_N[near]
        return near[near_C >= np.partition(near_C, -k)[-k] - tolerance]

    def _best_of(
        self, queries_QD: np.ndarray, candidates: Sequence[np.ndarray], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of the candidates of each query, which are ascending positions."""
        scores_QK = np.empty((len(queries_QD), k), np.float32)
        positions_QK = np.empty((len(queries_QD), k), np.int64)
        for number, positions in enumerate(candidates):
            scores = self._exact_scores(queries_QD[number], positions)
            order = np.argsort(-scores, kind="stable")[:k]
            scores_QK[number], positions_QK[number] = scores[order], positions[order]
        return scores_QK, positions_QK

    def _exact_scores(self, queries: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Inner products of queries, (..., D), with the vectors at some positions."""
        scores = inner_products(self.vectors_ND.take(positions, 0), queries)
        if not np.isfinite(scores).all():
            self._refuse(int(positions[~np.isfinite(scores)][0]))
        return scores

    def _coded(
        self,
        queries_QD: np.ndarray,
        k: int,
        mask: Mask,
        search: _Search,
        first: int,
        certainty: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of what a search over codes covers, by asking it for so many that no other can be nearer.

        Args:
            queries_QD: the queries.
            k: number of neighbours.
            mask: of the search.
            search: gives the best products of codes, best first, and their positions, -1 for none, of the queries at
                some positions with some codes.
            first: number of candidates to begin with.
            certainty: share of the bound on errors to allow for; 1 to be certain.
        """
        rows, count = np.arange(len(queries_QD)), min(first * self._widening, mask.count)
        if len(queries_QD) == 1 and (nearest := self._coded_once(queries_QD[0], k, search, count, certainty)):
            self._unproven *= 0.9
            return nearest
        quantized = self.quantizer.queries(queries_QD)
        scores_QK = np.empty((len(rows), k), np.float32)
        positions_QK = np.empty((len(rows), k), np.int64)
        while rows.size:
            if count > WIDEST and count > first:
                scores_QK[rows], positions_QK[rows] = self._float32(queries_QD[rows], k, mask)
                break
            products_QC, candidates_QC = search(rows, quantized.codes_QD[rows], count)
            if candidates_QC.max(initial=-1) >= len(self.vectors_ND):
                raise UserError(
                    f"{self.folder / STRUCTURE} is damaged: it names a vector that does not exist; {REMEDY}"
                )
            best_QK, best_positions_QK = self._ranked(queries_QD[rows], candidates_QC, k)
            left_out_Q = quantized.constant_Q[rows] + quantized.unit_Q[rows] * products_QC[:, -1]
            proven_Q = best_QK[:, -1] > left_out_Q + certainty * quantized.bound_Q[rows]
            proven_Q |= (candidates_QC[:, -1] < 0) | (count == mask.count)
            scores_QK[rows], positions_QK[rows] = best_QK, best_positions_QK
            rows = rows[~proven_Q]
            if first * self._widening >= count:
                self._unproven += 0.1 * (rows.size / len(queries_QD) - self._unproven)
            count = min(2 * count, mask.count)
        if self._unproven > 0.5:
            self._widening, self._unproven = min(2 * self._widening, 16), 0.0
        return scores_QK, positions_QK

    def _coded_once(
        self, query_D: np.ndarray, k: int, search: _Search, count: int, certainty: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(1, K) scores and positions of the nearest to one query; None if so many candidates do not prove them.

        Single queries are the usual ones, and most of their time is that of calling NumPy, which this does less often.
        """
        codes_D, constant, unit, bound = self.quantizer.query(query_D)
        products_1C, candidates_1C = search(_ONE, codes_D[None], count)
        candidates_C = candidates_1C[0]
        if candidates_C.item(-1) < 0 or candidates_C.max() >= len(self.vectors_ND):
            return None
        scores_C = inner_products(self.vectors_ND.take(candidates_C, 0), query_D)
        if not math.isfinite(scores_C.sum()):
            return None
        best_K = np.lexsort((candidates_C, -scores_C))[:k]
        scores_K = scores_C[best_K]
        if scores_K.item(-1) <= constant + unit * products_1C.item(-1) + certainty * bound:
            return None
        return scores_K[None], candidates_C[best_K][None]

    def _ranked(self, queries_QD: np.ndarray, candidates_QC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, K) scores and positions of the best candidates; -inf and -1 where there are fewer."""
        scores_QC = inner_products(self.vectors_ND.take(candidates_QC, 0), queries_QD[:, None])
        missing_QC = candidates_QC < 0
        if not np.isfinite(scores_QC).all() and (bad_QC := ~np.isfinite(scores_QC) & ~missing_QC).any():
            self._refuse(int(candidates_QC[bad_QC][0]))
        scores_QC[missing_QC] = -np.inf
        order_QK = np.lexsort((candidates_QC, -scores_QC))[:, :k]
        rows_Q1 = np.arange(len(order_QK))[:, None]
        return scores_QC[rows_Q1, order_QK], candidates_QC[rows_Q1, order_QK]

    def _products(self, codes_QD: np.ndarray, count: int, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        """(Q, C) the best products of codes, best first, and their positions, -1 for none."""
        products_QC = np.empty((len(codes_QD), count), np.float32)
        positions_QC = np.empty((len(codes_QD), count), np.int64)
        # The Python form of this call takes a third of the time of a search in a few lists.
        codes, products, positions = map(load_faiss(self.kind).swig_ptr, (codes_QD, products_QC, positions_QC))
        self.structure.search_c(len(codes_QD), codes, count, products, positions, parameters)
        return products_QC, positions_QC

    # Search in some lists.

    def probed(self, queries_QD: np.ndarray, k: int, mask: Mask, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """Searches the lists whose centroids are nearest. A list counts by the share of its vectors that is allowed.

        Hence removals and filters do not reduce recall: with half of all vectors allowed, twice as many lists are
        searched. If these hold half of all vectors, or fewer than K allowed ones, search is exhaustive.
        """
        if mask.full:
            parameters = self._parameters(probes)
            nearest = self._near(
                queries_QD, k, mask, lambda rows, codes_QD, count: self._products(codes_QD, count, parameters)
            )
            all_Q = nearest[1][:, -1] < 0
            if not all_Q.any():
                return nearest
            scores_QK, positions_QK = nearest
        else:
            lists_QP = self._nearest_lists(queries_QD, mask, probes)
            covered_Q = np.where(lists_QP >= 0, self._living(mask)[lists_QP], 0).sum(1)
            read_Q = np.where(lists_QP >= 0, self.sizes_L[lists_QP], 0).sum(1)
            all_Q = (covered_Q < k) | (2 * read_Q > len(self.vectors_ND))
            scores_QK = np.empty((len(queries_QD), k), np.float32)
            positions_QK = np.empty((len(queries_QD), k), np.int64)
            near_QP = lists_QP[~all_Q]
            scores_QK[~all_Q], positions_QK[~all_Q] = self._near(
                queries_QD[~all_Q],
                k,
                mask,
                lambda rows, codes_QD, count: self._in_lists(codes_QD, count, near_QP[rows], mask),
            )
        if all_Q.any():
            scores_QK[all_Q], positions_QK[all_Q] = self._scanned(queries_QD[all_Q], k, mask)
        return scores_QK, positions_QK

    def _near(self, queries_QD: np.ndarray, k: int, mask: Mask, search: _Search) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of those that a search in some lists covers. Recall is measured with its certainty."""
        # The errors of dimensions are independent, so their sum is rarely beyond three standard deviations.
        return self._coded(queries_QD, k, mask, search, max(16, 2 * k), min(1.0, 2 / queries_QD.shape[1] ** 0.5))

    def _nearest_lists(self, queries_QD: np.ndarray, mask: Mask, probes: int) -> np.ndarray:
        """(Q, P) the nearest lists that together have the share of allowed vectors of ``probes`` lists; -1 for none."""
        living_L = self._living(mask)
        order_QL = np.argsort(-(queries_QD @ self.centroids_LD.T), 1)
        share_L = living_L / np.maximum(self.sizes_L, 1)
        chosen_QL = (np.cumsum(share_L[order_QL], 1) - share_L[order_QL] < probes) & (living_L[order_QL] > 0)
        most = int(chosen_QL.sum(1).max())
        first_QP = np.argsort(~chosen_QL, 1, kind="stable")[:, :most]
        return np.take_along_axis(np.where(chosen_QL, order_QL, -1), first_QP, 1)

    def _in_lists(
        self, codes_QD: np.ndarray, count: int, lists_QP: np.ndarray, mask: Mask
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = load_faiss(self.kind)
        parameters = faiss.SearchParametersIVF(nprobe=lists_QP.shape[1], sel=mask.selector)
        lists_QP = np.ascontiguousarray(lists_QP, np.int64)
        nearness_QP = np.zeros(lists_QP.shape, np.float32)
        products_QC = np.empty((len(codes_QD), count), np.float32)
        positions_QC = np.empty((len(codes_QD), count), np.int64)
        # The Python form of search_preassigned takes no parameters.
        arrays = (faiss.swig_ptr(values) for values in (lists_QP, nearness_QP, products_QC, positions_QC))
        self.structure.search_preassigned_c(len(codes_QD), faiss.swig_ptr(codes_QD), count, *arrays, False, parameters)
        return products_QC, positions_QC

    def _parameters(self, probes: int) -> Any:
        """Of a search in so many lists of all vectors."""
        if (parameters := self._parameters_of.get(probes)) is None:
            parameters = load_faiss(self.kind).SearchParametersIVF(nprobe=probes)
            self._parameters_of[probes] = parameters
        return parameters

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
        return centroids_LD * self.quantizer.step_D if self.kind == "ivfsq8" else centroids_LD

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
        """The faiss index, memory-mapped. With codes, its centroids are divided by steps, as codes of queries are."""
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
        if lists:
            # Starting threads that read lists ahead takes longer than a search.
            faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        if self.kind == "ivfsq8":
            # One call then compares queries with centroids and with codes.
            centroids_LD = index.quantizer.reconstruct_n(0, index.nlist)
            index.quantizer.reset()
            index.quantizer.add(centroids_LD / self.quantizer.step_D)
        return index

    def _codes(self, first: int, last: int) -> np.ndarray:
        """(N, D) int8 codes of a range of positions."""
        if self.vectors_ND.size <= CACHED_CODES:
            return self._all_codes[first:last]
        # Stored ones are larger by 128.
        return (self._bytes_ND[first:last] ^ np.uint8(128)).view(np.int8)

    @cached_property
    def _all_codes(self) -> np.ndarray:
        return (self._bytes_ND ^ np.uint8(128)).view(np.int8)

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
) -> list[np.ndarray]:
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
    edges = sorted({0, min(_FIRST, total), *range(min(_SECOND, total), total, BLOCK), total})
    for first, last in pairwise(edges):
        allowed_N = None if mask is None or mask.full else mask.allowed_N[first:last]
        if allowed_N is not None and not allowed_N.any():
            continue
        scores_QN = scores(first, last)
        # In the type of the scores, as other comparisons convert all of them.
        if scores_QN.dtype.kind == "f":
            limit_Q = np.nextafter(threshold_Q.astype(scores_QN.dtype), np.float32(-np.inf))
        else:
            limit_Q = np.maximum(np.floor(threshold_Q), np.iinfo(scores_QN.dtype).min).astype(scores_QN.dtype)
        near_QN = scores_QN >= limit_Q[:, None]
        if allowed_N is not None:
            near_QN &= allowed_N
        query_M, offset_M = np.nonzero(near_QN)
        score_M = scores_QN[query_M, offset_M].astype(np.float64)
        edges_Q = np.searchsorted(query_M, np.arange(queries + 1)).tolist()
        for number, (start, stop) in enumerate(pairwise(edges_Q)):
            if start == stop:
                continue
            positions = np.concatenate([near_positions[number], offset_M[start:stop] + first])
            values = np.concatenate([near_scores[number], score_M[start:stop]])
            if len(values) > k:
                threshold = np.partition(values, len(values) - k)[len(values) - k] - tolerance_Q[number]
                threshold_Q[number] = threshold
                near = values >= threshold
                positions, values = positions[near], values[near]
            near_positions[number], near_scores[number] = positions, values
    return near_positions


def _top(scores_N: np.ndarray, k: int) -> np.ndarray:
    """(K,) indices of the best scores, best first; of equal ones the first."""
    if k < len(scores_N):
        near = np.flatnonzero(scores_N >= np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k])
        return near[np.argsort(-scores_N[near], kind="stable")[:k]]
    return np.argsort(-scores_N, kind="stable")


@cache
def load_faiss(kind: str) -> Any:
    """Imports faiss.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("retrieval", f"an index of kind {kind}"):
        import faiss

    return faiss
