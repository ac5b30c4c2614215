"""Libraries that the index is compared with, each with the parameters at which it reaches a recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.retrieval.neighbours import load_faiss

LINKS, BUILD_CANDIDATES = 16, 128
"""Of every graph."""
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
"""Candidates of graphs."""
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
"""Inverted lists."""
Search = Callable[[np.ndarray], np.ndarray]
"""(Q, K) positions of the nearest to (Q, D) queries."""
NAMES = ("faiss flat", "faiss IVF", "faiss HNSW", "hnswlib", "usearch f32", "usearch i8")


@dataclass(frozen=True)
class Peer:
    """A library's index.

    Args:
        build_seconds: processor time.
        path: of the saved index.
        searches: by the value of its parameter, ascending; 0 if it has none.
    """

    build_seconds: float
    path: Path
    searches: Iterator[tuple[int, Search]]


def peers(vectors_ND: np.ndarray, k: int, folder: Path, names: Sequence[str] = NAMES) -> Iterator[tuple[str, Peer]]:
    """Builds the indexes of some libraries, those that are installed. All of them use one thread."""
    faiss = load_faiss("peer")
    dim, path = vectors_ND.shape[1], folder / "peer"

    def faiss_peer(index: Any, parameters: Callable[[int], Any], efforts: tuple[int, ...]) -> Peer:
        start = time.process_time()
        if not index.is_trained:
            index.train(vectors_ND)
        index.add(vectors_ND)
        seconds = time.process_time() - start
        faiss.write_index(index, str(path))

        def search(effort: int) -> Search:
            options = parameters(effort)
            return lambda queries_QD: np.asarray(index.search(queries_QD, k, params=options)[1])

        return Peer(seconds, path, ((effort, search(effort)) for effort in efforts))

    product = faiss.METRIC_INNER_PRODUCT
    if "faiss flat" in names:
        yield "faiss flat", faiss_peer(faiss.IndexFlatIP(dim), lambda effort: None, (0,))
    lists = round(2 * len(vectors_ND) ** 0.5)
    if "faiss IVF" in names:
        centroids = faiss.IndexFlatIP(dim)
        inverted = faiss.IndexIVFFlat(centroids, dim, lists, product)
        inverted.cp.min_points_per_centroid, inverted.cp.max_points_per_centroid = 1, 64
        yield (
            "faiss IVF",
            faiss_peer(
                inverted,
                lambda effort: faiss.SearchParametersIVF(nprobe=min(effort, lists)),
                tuple(effort for effort in PROBES if effort < 2 * lists),
            ),
        )
    if "faiss HNSW" in names:
        graph = faiss.IndexHNSWFlat(dim, LINKS, product)
        graph.hnsw.efConstruction = BUILD_CANDIDATES
        yield "faiss HNSW", faiss_peer(graph, lambda effort: faiss.SearchParametersHNSW(efSearch=effort), EFFORTS)
    if "hnswlib" in names and find_spec("hnswlib"):
        # It has no wheels, so no extra brings it: it needs a compiler to be installed.
        yield "hnswlib", _hnswlib(vectors_ND, k, path)
    for dtype in ("f32", "i8") if find_spec("usearch") else ():
        if f"usearch {dtype}" in names:
            yield f"usearch {dtype}", _usearch(vectors_ND, k, path, dtype)


def _hnswlib(vectors_ND: np.ndarray, k: int, path: Path) -> Peer:
    import hnswlib

    index = hnswlib.Index("ip", vectors_ND.shape[1])
    index.init_index(len(vectors_ND), M=LINKS, ef_construction=BUILD_CANDIDATES)
    start = time.process_time()
    index.add_items(vectors_ND, num_threads=1)
    seconds = time.process_time() - start
    index.save_index(str(path))

    def searches() -> Iterator[tuple[int, Search]]:
        for effort in EFFORTS:
            index.set_ef(effort)
            yield effort, lambda queries_QD: np.asarray(index.knn_query(queries_QD, k, num_threads=1)[0])

    return Peer(seconds, path, searches())


def _usearch(vectors_ND: np.ndarray, k: int, path: Path, dtype: str) -> Peer:
    from usearch.index import Index

    index = Index(
        ndim=vectors_ND.shape[1], metric="ip", dtype=dtype, connectivity=LINKS, expansion_add=BUILD_CANDIDATES
    )
    start = time.process_time()
    index.add(np.arange(len(vectors_ND)), vectors_ND, threads=1)
    seconds = time.process_time() - start
    index.save(str(path))

    def searches() -> Iterator[tuple[int, Search]]:
        for effort in EFFORTS:
            index.expansion_search = effort  # type: ignore[misc]
            yield effort, lambda queries_QD: _keys(index, queries_QD, k)

    return Peer(seconds, path, searches())


def loaded(library: str, dim: int) -> Callable[[Path], Search]:
    """Imports a library, and returns what opens an index that it has saved, of vectors of a width."""
    if library == "hnswlib":
        import hnswlib

        def open_hnswlib(path: Path) -> Search:
            index = hnswlib.Index("ip", dim)
            index.load_index(str(path))
            return lambda queries_QD: np.asarray(index.knn_query(queries_QD, 10, num_threads=1)[0])

        return open_hnswlib
    if library.startswith("usearch"):
        from usearch.index import Index

        def open_usearch(path: Path) -> Search:
            index = Index.restore(str(path))
            return lambda queries_QD: _keys(index, queries_QD, 10)

        return open_usearch
    faiss = load_faiss("peer")

    def open_faiss(path: Path) -> Search:
        index = faiss.read_index(str(path))
        return lambda queries_QD: np.asarray(index.search(queries_QD, 10)[1])

    return open_faiss


def _keys(index: Any, queries_QD: np.ndarray, k: int) -> np.ndarray:
    keys = np.asarray(index.search(queries_QD[0] if len(queries_QD) == 1 else queries_QD, k, threads=1).keys)
    return keys.reshape(len(queries_QD), -1)
