"""Building the search structure of a segment, and choosing how much of it a search covers by measuring.

Shapes: Q queries, N vectors, D width, L lists, K neighbours.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from .neighbours import PROBED, QUANTIZER, QUANTIZER_FORMAT, STRUCTURE, Kind, Mask, Neighbours, Tuning, load_faiss
from .quantized import BLOCK, Quantizer

log = logging.getLogger(__name__)

FLAT_UP_TO = 2_000
"""Number of vectors up to which float32 is scanned, without a structure."""
FLAT_WITHOUT_FAISS = 20_000
"""The same where faiss is not installed."""
LISTS_FROM = 5_000
"""Number of vectors from which inverted lists are tried."""
SAMPLED = 400
"""Number of queries of each source by which the number of lists is chosen, half of them, and recall is measured."""
ITERATIONS, PER_LIST = 10, 64
"""Of k-means: iterations, and vectors for each centroid."""
WORTHWHILE = 0.5
"""Largest cost of searching some lists, relative to a scan of all codes."""
LIST_COST, CENTROID_COST = 24, 4
"""Cost of probing a list, and of comparing a centroid, in codes scanned."""


def build(
    vectors_ND: np.ndarray, folder: Path, recall: float, queries_QD: np.ndarray | None = None
) -> tuple[Kind, Tuning | None]:
    """Builds the search structure of a segment.

    Search is exact for up to :data:`LISTS_FROM` vectors, and for more if the recall is 1 or lists of that recall would
    not be much faster. Numbers of lists are chosen by half of the sampled queries: rows of the segment, each without
    itself among its neighbours, and ``queries_QD``, as queries of another tower lie elsewhere. Recall is measured on
    the other half, and is that of the source with less.

    Args:
        vectors_ND: float32, possibly memory-mapped.
        folder: to write the structure to.
        recall: the target, above 0; 1 for exact search.
        queries_QD: sample queries, if any.

    Raises:
        UserError: faiss is not installed, or cannot write the file.
    """
    count = len(vectors_ND)
    if count <= FLAT_UP_TO or (count <= FLAT_WITHOUT_FAISS and importlib.util.find_spec("faiss") is None):
        return "flat", None
    faiss = load_faiss("sq8")
    quantizer = Quantizer.of(vectors_ND)
    if not _separates(quantizer, vectors_ND):
        log.warning("%s: 8-bit codes do not tell these vectors apart, so that search compares them in float32", folder)
        return "flat", None
    try:
        quantizer.write(folder / QUANTIZER, QUANTIZER_FORMAT)
        if count >= LISTS_FROM and recall < 1:
            index = _with_lists(faiss, vectors_ND, quantizer)
            _write(faiss, index, folder)
            neighbours = Neighbours(vectors_ND, "ivfsq8", folder)
            if (tuning := tuned(neighbours, recall, queries_QD)) is not None:
                return "ivfsq8", tuning
            log.info("%s: a recall of %g takes most of the lists; search is exact", folder, recall)
        index = faiss.IndexScalarQuantizer(
            vectors_ND.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        index.is_trained = True
        for first in range(0, count, BLOCK):
            index.add(quantizer.codes(vectors_ND[first : first + BLOCK]))
        _write(faiss, index, folder)
    except (RuntimeError, MemoryError) as error:
        raise UserError(
            f"faiss cannot write {folder / STRUCTURE}: {error}; check that there is enough memory and disk space"
        ) from error
    return "sq8", None


def _write(faiss: Any, index: Any, folder: Path) -> None:
    (folder / STRUCTURE).unlink(missing_ok=True)
    faiss.write_index(index, str(folder / STRUCTURE))


def _separates(quantizer: Quantizer, vectors_ND: np.ndarray) -> bool:
    """Whether bounds on codes leave few candidates; a vector that is far longer than all others makes codes coarse."""
    sample_ND = np.array(vectors_ND[np.linspace(0, len(vectors_ND) - 1, min(len(vectors_ND), 4_096)).astype(np.int64)])
    queries_QD = sample_ND[:: max(1, len(sample_ND) // 16)]
    # Equal vectors are no fault of the codes.
    scores_QN = np.sort(queries_QD @ sample_ND.T, 1)[:, ::-1]
    threshold_Q1 = scores_QN[:, 10:11] - 2 * quantizer.queries(queries_QD).bound_Q[:, None]
    return float(((scores_QN >= threshold_Q1) & (scores_QN < scores_QN[:, 10:11])).mean()) < 0.25


def _with_lists(faiss: Any, vectors_ND: np.ndarray, quantizer: Quantizer) -> Any:
    count, dim = vectors_ND.shape
    lists = min(count, round(2 * count**0.5))
    sample = np.sort(np.random.default_rng(0).permutation(count)[: PER_LIST * lists])
    kmeans = faiss.Kmeans(
        dim,
        lists,
        niter=ITERATIONS,
        spherical=True,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=PER_LIST,
    )
    kmeans.train(np.ascontiguousarray(vectors_ND[sample]))
    centroids = faiss.IndexFlatIP(dim)
    centroids.add(kmeans.centroids)
    index = faiss.IndexIVFScalarQuantizer(
        centroids, dim, lists, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT, False
    )
    index.is_trained = True
    for first in range(0, count, BLOCK):
        block_ND = np.ascontiguousarray(vectors_ND[first : first + BLOCK])
        _, list_N1 = centroids.search(block_ND, 1)
        codes_ND, ids_N = quantizer.codes(block_ND), np.arange(first, first + len(block_ND))
        pointers = (faiss.swig_ptr(values) for values in (codes_ND, ids_N, list_N1))
        index.add_core(len(block_ND), *pointers)
    # The index is read back from its file, so the centroids need not outlive this function.
    index.referenced_objects = [centroids]
    return index


def tuned(neighbours: Neighbours, target: float, queries_QD: np.ndarray | None) -> Tuning | None:
    """Chooses how many lists are probed; None if search in lists is not worthwhile.

    Args:
        neighbours: with inverted lists.
        target: recall.
        queries_QD: sample queries beside the rows.
    """
    vectors_ND = neighbours.vectors_ND
    generator = np.random.default_rng(0)
    sampled = np.sort(generator.permutation(len(vectors_ND))[:SAMPLED])
    sources = [(np.array(vectors_ND[sampled]), sampled)]
    if queries_QD is not None and len(queries_QD):
        chosen = np.sort(generator.permutation(len(queries_QD))[:SAMPLED])
        sources.append((np.array(queries_QD[chosen]), np.full(len(chosen), -1)))
    truths = [_truth(neighbours, *source) for source in sources]
    # A number of lists that just reaches the target on some queries would miss it on others.
    margin, lists = (1 + target) / 2, len(neighbours.sizes_L)
    probes: list[int] = []
    for k in PROBED:
        ranks = [
            _ranks(neighbours, queries[::2], positions[::2, :k])
            for (queries, _), (_, positions) in zip(sources, truths, strict=True)
        ]
        probes.append(max(_enough(ranks_QK, margin) for ranks_QK in ranks))
    while True:
        if _cost(neighbours, sources, probes[0]) > WORTHWHILE * len(vectors_ND):
            return None
        recall = min(
            _recall(neighbours, queries[1::2], positions[1::2], scores[1::2], probes[0])
            for (queries, positions), (scores, _) in zip(sources, truths, strict=True)
        )
        if recall >= target:
            measured = sum(len(queries[1::2]) for queries, _ in sources)
            return Tuning(target, recall, measured, (probes[0], min(max(probes), lists)))
        probes[0] = min(lists, max(probes[0] + 1, round(1.5 * probes[0])))


def _truth(neighbours: Neighbours, queries_QD: np.ndarray, own_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) scores and positions of the true neighbours, without the query itself."""
    exact = Neighbours(neighbours.vectors_ND, "flat", neighbours.folder)
    return _without(own_Q, *exact.search(queries_QD, PROBED[-1] + 1), PROBED[-1])


def _without(
    own_Q: np.ndarray, scores_QK: np.ndarray, positions_QK: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    k = min(k, positions_QK.shape[1] - 1)
    order_QK = np.argsort(positions_QK == own_Q[:, None], 1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QK, order_QK, 1), np.take_along_axis(positions_QK, order_QK, 1)


def _ranks(neighbours: Neighbours, queries_QD: np.ndarray, positions_QK: np.ndarray) -> np.ndarray:
    """(Q, K) rank of the list of each neighbour in the order in which the query's lists are probed."""
    order_QL = np.argsort(-(queries_QD @ neighbours.centroids_LD.T), 1)
    rank_QL = np.empty_like(order_QL)
    np.put_along_axis(rank_QL, order_QL, np.arange(order_QL.shape[1])[None], 1)
    return np.take_along_axis(rank_QL, neighbours.list_of_N[positions_QK], 1)


def _enough(rank_QK: np.ndarray, share: float) -> int:
    """The smallest number of lists that have this share of the neighbours."""
    ranks = np.sort(rank_QK, axis=None)
    return int(ranks[max(0, int(np.ceil(share * len(ranks))) - 1)]) + 1


def _cost(neighbours: Neighbours, sources: list[tuple[np.ndarray, np.ndarray]], probes: int) -> float:
    """Mean number of codes whose scan takes as long as a search, of the dearest source."""
    lists = len(neighbours.sizes_L)
    costs = []
    for queries_QD, _ in sources:
        nearness_QL = queries_QD @ neighbours.centroids_LD.T
        nearest_QP = np.argpartition(-nearness_QL, probes - 1, 1)[:, :probes]
        costs.append(float(neighbours.sizes_L[nearest_QP].sum(1).mean()))
    return max(costs) + LIST_COST * probes + CENTROID_COST * lists


def _recall(
    neighbours: Neighbours, queries_QD: np.ndarray, own_Q: np.ndarray, true_scores_QK: np.ndarray, probes: int
) -> float:
    """Share of the 10 nearest among 10 results. One that scores as high as a true neighbour counts as one."""
    k = PROBED[0]
    everything = Mask(np.ones(len(neighbours.vectors_ND), bool))
    result_QK, _ = _without(own_Q, *neighbours.probed(queries_QD, k + 1, everything, probes), k)
    return float((result_QK >= true_scores_QK[:, k - 1 : k]).mean())
