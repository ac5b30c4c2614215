"""The index at its sizes: build time, bytes, queries a second, and how many of the true neighbours it returns.

Vectors lie around random centres, as those of similar things do, or anywhere on the sphere (``--data sphere``), where
all neighbours are far. Queries are drawn like them and are not in the index. They come one at a time, through
``Index.search``, and in a batch, through ``search_many``. Queries per second are of processor time on one thread, in
the best of three passes.

Beside it: faiss (flat, inverted lists, HNSW), hnswlib and usearch, each with the cheapest parameter at which it has a
recall of 0.99 on the same queries, one at a time and in a batch; those that reach it with none have the recall of their
dearest one. Libraries return positions. The index reads the rows of its results when they are first asked for; with
them, it has a figure of its own.

Memory is what a new process has more, apart from mapped files, once it has opened the saved index and answered.

- **removal**: half of the rows at random, and then the 200 nearest of each of 20 queries; **duplicates**: a tenth of
  the rows are copies of one; recall is of the rows that remain, and a result as near as a true one counts as one.
- **compaction**: 60 additions of 100, as they are merged by themselves, and after ``compact``.
- A process that adds is killed by SIGKILL, and the index must answer as before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.neighbours import Neighbours, load_faiss
from hrt_mm.retrieval.rows import Model, Row

from .checks import CheckFailed
from .command import main, numbers, parser, positive
from .index_memory import memory_of
from .index_peers import NAMES, Peer, Search, peers
from .markdown import markdown, mebibytes
from .results import Measured, Result, environment
from .results import Row as ResultRow

NAME = "index"
SIZES, QUICK_SIZES = (10_000, 100_000, 200_000), (500, 20_500)
"""Numbers of vectors."""
RECALL = 0.99
PASSES = 3
"""Over the queries, of which the fastest counts."""
T = TypeVar("T")
PEERS_UP_TO = 200_000
"""Vectors above which other libraries are left out: a graph of a million takes most of an hour."""
K = 10
SPREAD = 1.0
"""Length of what is added to a centre of length 1."""
PER_CENTRE = 500
"""Vectors around one centre, on average."""
BLOCK = 50_000
ADDED = 0.01
"""Part of the vectors that is added later, and 2,000 at least."""


def drawn(count: int, dim: int, centres_CD: np.ndarray | None, seed: int) -> np.ndarray:
    """(N, D) vectors of length 1, around some centres or anywhere."""
    generator = np.random.default_rng(seed)
    x_ND = generator.standard_normal((count, dim), np.float32)
    if centres_CD is not None:
        x_ND *= SPREAD / dim**0.5
        x_ND += centres_CD[generator.integers(len(centres_CD), size=count)]
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def centres(count: int, options: argparse.Namespace) -> np.ndarray | None:
    """(C, D) the centres of so many vectors; none where they may lie anywhere."""
    if options.data == "sphere":
        return None
    return drawn(max(8, count // PER_CENTRE), options.dim, None, options.seed + 1)


def collected(folder: Path, count: int, name: str, seed: int, made_of: np.ndarray | None, model: Model) -> Collection:
    """Writes a collection of vectors, some at a time."""
    with writing(folder, model) as writer:
        for first in range(0, count, BLOCK):
            last = min(first + BLOCK, count)
            rows = [Row(f"{name}{number}", "image") for number in range(first, last)]
            writer.add(drawn(last - first, model.dim, made_of, seed + first), rows)
    return Collection(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fastest(act: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its processor seconds, the least of some passes."""
    seconds = []
    for _ in range(PASSES):
        start = time.process_time()
        value = act()
        seconds.append(time.process_time() - start)
    return value, min(seconds)


def answers(index: Index, queries_QD: np.ndarray) -> Iterator[tuple[list[Hit], float]]:
    """The hits of each query, and the processor seconds that they took, once the index is open."""
    index.search(queries_QD[0], K)
    for query_D in queries_QD:
        start = time.process_time()
        hits = index.search(query_D, K)
        yield hits, time.process_time() - start


def recall_of(scores_QK: list[np.ndarray], exact_QK: list[np.ndarray]) -> float:
    """Share of the true neighbours; a result as near as the last of them counts as one."""
    shares = [
        float((scores >= exact[-1] - 1e-6).sum()) / len(exact)
        for scores, exact in zip(scores_QK, exact_QK, strict=True)
    ]
    return min(1.0, float(np.mean(shares)))


def exact_scores(vectors_ND: np.ndarray, queries_QD: np.ndarray) -> list[np.ndarray]:
    """The scores of the nearest of each query."""
    exact = Neighbours(vectors_ND, "flat", Path())
    return list(exact.search(queries_QD, K)[0])


def one_by_one(search: Search, queries_QD: np.ndarray) -> None:
    """Searches with each query alone."""
    for query_D in queries_QD:
        search(query_D[None])


def cheapest(
    peer: Peer, vectors_ND: np.ndarray, queries_QD: np.ndarray, exact_QK: list[np.ndarray]
) -> tuple[int, Search, float]:
    """The least parameter with the recall, or the largest, with its search and its recall."""
    for effort, search in peer.searches:
        positions_QK = np.concatenate([search(query_D[None]) for query_D in queries_QD]).astype(np.int64)
        scores = [vectors_ND[positions] @ query_D for positions, query_D in zip(positions_QK, queries_QD, strict=True)]
        chosen = effort, search, recall_of(scores, exact_QK)
        if chosen[2] >= RECALL:
            break
    return chosen


def measured_peers(
    vectors_ND: np.ndarray, queries_QD: np.ndarray, exact_QK: list[np.ndarray], folder: Path, names: Sequence[str]
) -> dict[str, Measured]:
    """Each library at the cheapest parameter with the recall."""
    measured = {}
    for name, peer in peers(vectors_ND, K, folder, names):
        effort, search, recall = cheapest(peer, vectors_ND, queries_QD, exact_QK)
        _, seconds = fastest(partial(one_by_one, search, queries_QD))
        _, batch_seconds = fastest(partial(search, queries_QD))
        measured[name] = Measured(
            seconds=seconds / len(queries_QD),
            bytes=peer.path.stat().st_size,
            held_bytes=memory_of(name, peer.path, queries_QD[:20]),
            scores={
                "recall@10": recall,
                "queries/s": len(queries_QD) / seconds,
                "batch queries/s": len(queries_QD) / batch_seconds,
                "build seconds": peer.build_seconds,
                "parameter": effort,
            },
        )
    return measured


def after_removal(index: Index, vectors_ND: np.ndarray, queries_QD: np.ndarray, seed: int) -> dict[str, float | None]:
    """Recall and speed with half of the rows removed, and then without the nearest of some queries too."""
    alive_N = np.random.default_rng(seed).random(len(vectors_ND)) < 0.5
    index.remove([f"v{position}" for position in np.flatnonzero(~alive_N)])
    scores: dict[str, float | None] = {}
    near_queries_QD = queries_QD[:20]
    for name, some_QD in (("half", queries_QD), ("nearest", near_queries_QD)):
        if name == "nearest":
            living = np.flatnonzero(alive_N)
            scores_QN = some_QD @ vectors_ND[living].T
            count = min(200, len(living) // 40)
            nearest = np.unique(living[np.argpartition(-scores_QN, count, 1)[:, :count]])
            index.remove([f"v{position}" for position in nearest])
            alive_N[nearest] = False
        exact_QK = exact_scores(vectors_ND[alive_N], some_QD)
        results, seconds = (list(column) for column in zip(*answers(index, some_QD), strict=True))
        scores[f"{name} removed, recall@10"] = recall_of([_scores(hits) for hits in results], exact_QK)
        scores[f"{name} removed, queries/s"] = 1 / float(np.mean(seconds))
    return scores


def with_duplicates(vectors_ND: np.ndarray, queries_QD: np.ndarray, folder: Path) -> dict[str, float | None]:
    """Recall and speed where a tenth of the rows are equal."""
    vectors_ND = vectors_ND.copy()
    vectors_ND[::10] = vectors_ND[0]
    model = Model("0" * 64, vectors_ND.shape[1])
    with writing(folder / "duplicates", model) as writer:
        for first in range(0, len(vectors_ND), BLOCK):
            block_ND = vectors_ND[first : first + BLOCK]
            writer.add(block_ND, [Row(f"v{first + offset}", "image") for offset in range(len(block_ND))])
    index = Index.build(folder / "of-duplicates", [Collection(folder / "duplicates")])
    queries_QD = np.concatenate([queries_QD, vectors_ND[:1], vectors_ND[1:10]])
    results, seconds = (list(column) for column in zip(*answers(index, queries_QD), strict=True))
    first_ten = [hit.row.id for hit in results[len(queries_QD) - 10]]
    return {
        "duplicates, recall@10": recall_of([_scores(hits) for hits in results], exact_scores(vectors_ND, queries_QD)),
        "duplicates, queries/s": 1 / float(np.mean(seconds)),
        "duplicates in the order of addition": float(first_ten == [f"v{10 * number}" for number in range(K)]),
    }


def compacted(model: Model, made_of: np.ndarray | None, queries_QD: np.ndarray, folder: Path) -> ResultRow:
    """60 additions of 100 vectors."""
    index = Index.create(folder / "growing", model)
    start = time.process_time()
    for number in range(60):
        index.add(collected(folder / f"addition-{number}", 100, f"{number}-", number, made_of, model))
    build_seconds = time.process_time() - start
    rows = {}
    for name in ("as it grew", "compacted"):
        if name == "compacted":
            index.remove([f"{number}-{position}" for number in range(60) for position in range(50)])
            start = time.process_time()
            index.compact()
            build_seconds = time.process_time() - start
        seconds = [seconds for _, seconds in answers(index, queries_QD)]
        rows[name] = Measured(
            seconds=float(np.median(seconds)),
            bytes=size_of(index.folder),
            scores={
                "segments": len(index.segments),
                "vectors": len(index),
                "queries/s": 1 / float(np.mean(seconds)),
                "build seconds": build_seconds,
            },
        )
    return ResultRow(sizes={"vectors": 6_000, "dim": model.dim, "kind": "additions"}, contenders=rows, ratios={})


def _scores(hits: list[Hit]) -> np.ndarray:
    return np.array([hit.score for hit in hits])


def killed_while_adding(index: Index, added: Collection) -> None:
    """Kills a process in the middle of an addition.

    Raises:
        CheckFailed: it was done before it could be killed.
    """
    files_before = {path.name for path in index.folder.iterdir()}
    process = multiprocessing.get_context("fork").Process(target=Index(index.folder).add, args=(added,))
    process.start()
    while process.is_alive() and not {path.name for path in index.folder.iterdir()} - files_before - {".lock"}:
        time.sleep(0.0005)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise CheckFailed("the process that adds was done before it could be killed; add more vectors")


def must_be_the_same(before: list[list[Hit]], after: list[list[Hit]]) -> float:
    """The largest difference of scores, where the same rows were found.

    Raises:
        CheckFailed: they were not.
    """
    for one, other in zip(before, after, strict=True):
        if [hit.row for hit in one] != [hit.row for hit in other]:
            raise CheckFailed("after the kill the index answers otherwise than before")
    pairs = [pair for lists in zip(before, after, strict=True) for pair in zip(*lists, strict=True)]
    return max(abs(one.score - other.score) for one, other in pairs)


def appended(index: Index, added: Collection) -> tuple[float, float]:
    """Adds a collection.

    Returns:
        The seconds that it took, and how many of the vectors find themselves first.

    Raises:
        CheckFailed: a file that was there has changed.
    """
    times_before = {path: path.stat().st_mtime_ns for path in index.folder.glob("segment-*/*")}
    start = time.perf_counter()
    index.add(added)
    seconds = time.perf_counter() - start
    if any(path.stat().st_mtime_ns != changed for path, changed in times_before.items()):
        raise CheckFailed("an addition wrote files anew that were there")
    sample = range(0, len(added), max(1, len(added) // 100))
    matches = [
        index.search(np.array(added.vectors_ND[position]), 1)[0].row == added.row(position) for position in sample
    ]
    return seconds, float(np.mean(matches))


def measured_index(
    folder: Path, vectors_ND: np.ndarray, queries_QD: np.ndarray, exact_QK: list[np.ndarray]
) -> tuple[Measured, list[list[Hit]]]:
    """The index in a folder, and its results."""
    held_bytes = memory_of(NAME, folder, queries_QD[:20])
    start = time.perf_counter()
    index = Index(folder)
    index.search(queries_QD[0], K)
    open_seconds = time.perf_counter() - start
    for query_D in queries_QD:
        index.search(query_D, K)
    results, seconds = fastest(lambda: [index.search(query_D, K) for query_D in queries_QD])
    batch, batch_seconds = fastest(lambda: index.search_many(queries_QD, K))
    _, row_seconds = fastest(lambda: [[hit.row for hit in index.search(query_D, K)] for query_D in queries_QD])
    scores: dict[str, float | None] = {
        "recall@10": recall_of([_scores(hits) for hits in results], exact_QK),
        "stored recall": index.recall("image"),
        "queries/s": len(queries_QD) / seconds,
        "queries/s with rows": len(queries_QD) / row_seconds,
        "batch queries/s": len(queries_QD) / batch_seconds,
        "batch recall@10": recall_of([_scores(hits) for hits in batch], exact_QK),
        "open seconds": open_seconds,
    }
    return Measured(
        seconds=seconds / len(queries_QD), bytes=size_of(folder), held_bytes=held_bytes, scores=scores
    ), results


def measure(count: int, options: argparse.Namespace, folder: Path) -> tuple[ResultRow, float]:
    """One size: its row, and how far scores differ after a kill."""
    model = Model("0" * 64, options.dim)
    made_of = centres(count, options)
    collection = collected(folder / "vectors", count, "v", options.seed + 2, made_of, model)
    queries_QD = drawn(options.queries, options.dim, made_of, options.seed + 10**9)
    start = time.process_time()
    Index.create(folder / "index", model).add(collection)
    build_seconds = time.process_time() - start
    vectors_ND = np.array(collection.vectors_ND)
    exact_QK = exact_scores(vectors_ND, queries_QD)
    measured, results = measured_index(folder / "index", vectors_ND, queries_QD, exact_QK)
    others = (
        measured_peers(vectors_ND, queries_QD, exact_QK, folder, options.peers) if count <= options.peers_up_to else {}
    )

    index = Index(folder / "index")
    kind = index.segments[0].entry.kind
    added = collected(folder / "more", max(2000, int(ADDED * count)), "m", options.seed + 3, made_of, model)
    killed_while_adding(index, added)
    left = Index(index.folder)
    difference = must_be_the_same(results, [hits for hits, _ in answers(left, queries_QD)])
    append_seconds, result = appended(left, added)
    scores: dict[str, float | None] = {
        **measured.scores,
        "build seconds": build_seconds,
        "append seconds": append_seconds,
        "added vectors": len(added),
        "added found first": result,
    }
    scores |= after_removal(Index.build(folder / "removal", [collection]), vectors_ND, queries_QD, options.seed)
    scores |= with_duplicates(vectors_ND, queries_QD, folder)
    return ResultRow(
        sizes={"vectors": count, "dim": options.dim, "kind": kind, "data": options.data},
        contenders={"index": measured.model_copy(update={"scores": scores}), **others},
        ratios={"index/vectors bytes": (measured.bytes or 0) / (4 * vectors_ND.size)},
    ), difference


def run(options: argparse.Namespace) -> Result:
    """Measures all sizes.

    Raises:
        UserError: faiss is not installed.
        CheckFailed: the index did not outlive a kill, or an addition wrote anew what was there.
    """
    load_faiss("ivf").omp_set_num_threads(torch.get_num_threads())
    if options.quick:
        options.dim, options.queries, options.peers_up_to = 16, 20, 1_000
    rows: list[ResultRow] = []
    differences = {}
    for count in options.vectors or (QUICK_SIZES if options.quick else SIZES):
        if options.folder is not None:
            Path(options.folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row, difference = measure(count, options, Path(folder))
            model, made_of = Model("0" * 64, options.dim), centres(6_000, options)
            if not rows:
                queries_QD = drawn(options.queries, options.dim, made_of, options.seed + 10**9)
                additions = compacted(model, made_of, queries_QD, Path(folder))
        rows.append(row)
        differences[f"{count:,} vectors, scores after a kill"] = difference
    rows.append(additions)
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"queries": options.queries, "k": K, "seed": options.seed, "spread": SPREAD, "a centre": PER_CENTRE},
        checks=differences,
        rows=rows,
        **environment(options.device),
    )


def rate(queries: float | None) -> str:
    """Queries per second; empty in results of earlier versions, which did not measure them."""
    return "" if queries is None else f"{queries:,.0f}"


def tables(result: Result) -> str:
    """The result as Markdown."""
    sizes = [row for row in result.rows if row.sizes["kind"] != "additions"]
    (additions,) = [row for row in result.rows if row.sizes["kind"] == "additions"]
    head = [
        "vectors",
        "structure",
        "build",
        "MiB",
        "MiB of vectors",
        "open and first answer",
        "queries/s",
        "with rows",
        "in a batch",
    ]
    head += ["recall@10", "stored", "add"]
    body, of_peers, of_changes = [], [], []
    for row in sizes:
        index_row = row.contenders["index"]
        scores: dict[str, Any] = index_row.scores
        name = f"{row.sizes['vectors']:,} x {row.sizes['dim']}, {row.sizes['data']}"
        body.append(
            [
                name,
                str(row.sizes["kind"]),
                f"{scores['build seconds']:,.1f} s",
                mebibytes(index_row.bytes),
                mebibytes(4 * int(row.sizes["vectors"]) * int(row.sizes["dim"])),
                f"{1e3 * scores['open seconds']:,.0f} ms",
                f"{scores['queries/s']:,.0f}",
                rate(scores.get("queries/s with rows")),
                f"{scores['batch queries/s']:,.0f}",
                f"{scores['recall@10']:.1%}",
                f"{scores['stored recall']:.1%}",
                f"{scores['added vectors']:,.0f} in {scores['append seconds']:,.1f} s",
            ]
        )
        for contender, measured in row.contenders.items():
            values: dict[str, Any] = measured.scores
            of_peers.append(
                [
                    name,
                    contender,
                    f"{values['recall@10']:.1%}",
                    f"{values['queries/s']:,.0f}",
                    rate(values.get("batch queries/s")),
                    f"{values['build seconds']:,.1f} s",
                    mebibytes(measured.bytes),
                    mebibytes(measured.held_bytes),
                    f"{values['parameter']:.0f}" if values.get("parameter") else "",
                ]
            )
        of_changes.append(
            [
                name,
                *(
                    f"{scores[f'{what}, recall@10']:.1%}, {scores[f'{what}, queries/s']:,.0f}/s"
                    for what in ("half removed", "nearest removed", "duplicates")
                ),
            ]
        )
    grown = [
        [
            name,
            f"{values['vectors']:,.0f}",
            f"{values['segments']:,.0f}",
            f"{values['build seconds']:,.2f} s",
            mebibytes(measured.bytes),
            f"{values['queries/s']:,.0f}",
        ]
        for name, measured in additions.contenders.items()
        for values in [dict(measured.scores)]
    ]
    peers_head = ["vectors", "library", "recall@10", "queries/s", "in a batch", "build", "MiB on disk", "in memory"]
    peers_head += ["ef or nprobe"]
    return "\n\n".join(
        [
            f"{result.settings['queries']} queries, {result.threads} thread(s); seconds and queries/s are of processor "
            "time. A process that was killed while it added left an index that gives the same answers.",
            markdown(head, body),
            markdown(peers_head, of_peers),
            "Recall@10 and queries/s after changes:",
            markdown(["vectors", "half removed", "and the nearest of queries", "a tenth equal"], of_changes),
            "60 additions of 100 vectors; then half of them removed, and the index compacted:",
            markdown(["index", "vectors", "segments", "time", "MiB", "queries/s"], grown),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--vectors", type=numbers, metavar="N,N", help="sizes; 10000,100000,200000 when absent")
    options.add_argument("--dim", type=positive, default=256, help="width; 256 when absent")
    options.add_argument("--queries", type=positive, default=200, help="queries; 200 when absent")
    options.add_argument("--data", choices=("clusters", "sphere"), default="clusters", help="how vectors lie")
    options.add_argument(
        "--peers-up-to", type=int, default=PEERS_UP_TO, help="largest size for other libraries; 200000"
    )
    options.add_argument(
        "--peers", type=lambda text: text.split(","), default=NAMES, metavar="NAME,NAME", help=f"of {', '.join(NAMES)}"
    )
    options.add_argument("--seed", type=int, default=0, help="of the vectors; 0 when absent")
    options.add_argument("--folder", type=Path, help="where vectors lie meanwhile: 4 GB for a million of 256")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
