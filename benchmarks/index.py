"""The index at its sizes: build time, bytes, queries a second, and how many of the true neighbours it finds.

Vectors lie around centres that were drawn at random, as those of things that are alike do, or anywhere on the sphere
(``--data sphere``), which is the hardest case: there all neighbours are far. Queries are drawn like them and are not in
the index. Each size gets the structure that the index picks for it. Queries come one at a time, through the index's own
``search``, with the rows that it reads for its answers. ``exact`` scores every vector.

Beside that: a process that adds vectors is killed by SIGKILL in the middle, and the index must answer as before. Then
they are added, no file that was there may change, and each must be found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.neighbours import Neighbours, load_faiss
from hrt_mm.retrieval.rows import Model, Row

from .checks import CheckFailed
from .command import main, numbers, parser, positive
from .markdown import markdown, mebibytes
from .results import Measured, Result, environment
from .results import Row as ResultRow

NAME = "index"
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (500, 20_500)
"""Vectors: one size for each structure, flat, a graph and lists."""
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


def held() -> int | None:
    """Memory of this process that is no file's, in bytes; ``None`` where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)


def answers(index: Index, queries_QD: np.ndarray) -> Iterator[tuple[list[Hit], float]]:
    """The hits of each query, and the seconds that they took."""
    for query_D in queries_QD:
        start = time.perf_counter()
        hits = index.search(query_D, K)
        yield hits, time.perf_counter() - start


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


def measure(count: int, options: argparse.Namespace, folder: Path) -> tuple[ResultRow, float]:
    """One size: its row, and how far scores differ after a kill."""
    model = Model("0" * 64, options.dim)
    made_of = centres(count, options)
    collection = collected(folder / "vectors", count, "v", options.seed + 2, made_of, model)
    queries_QD = drawn(options.queries, options.dim, made_of, options.seed + 10**9)
    start = time.perf_counter()
    Index.create(folder / "index", model).add(collection)
    build_seconds = time.perf_counter() - start
    size = size_of(folder / "index")

    memory, start = held(), time.perf_counter()
    index = Index(folder / "index")
    index.search(queries_QD[0], K)
    open_seconds, after = time.perf_counter() - start, held()
    results, seconds = (list(column) for column in zip(*answers(index, queries_QD), strict=True))
    exact, exact_seconds, recall = _exact(collection, queries_QD, results)

    added = collected(folder / "more", max(2000, int(ADDED * count)), "m", options.seed + 3, made_of, model)
    killed_while_adding(index, added)
    left = Index(index.folder)
    difference = must_be_the_same(results, [hits for hits, _ in answers(left, queries_QD)])
    append_seconds, result = appended(left, added)
    scores: dict[str, float | None] = {
        "recall@10": recall,
        "queries/s": 1 / float(np.mean(seconds)),
        "build seconds": build_seconds,
        "open seconds": open_seconds,
        "append seconds": append_seconds,
        "added vectors": len(added),
        "added found first": result,
    }
    return ResultRow(
        sizes={"vectors": count, "dim": options.dim, "kind": index.segments[0].entry.kind, "data": options.data},
        contenders={
            "index": Measured(
                seconds=float(np.median(seconds)),
                quartiles=(float(np.quantile(seconds, 0.25)), float(np.quantile(seconds, 0.75))),
                bytes=size,
                held_bytes=after - memory if after is not None and memory is not None else None,
                scores=scores,
            ),
            "exact": Measured(seconds=exact_seconds, bytes=exact, scores={"queries/s": 1 / exact_seconds}),
        },
        ratios={
            "exact/index seconds": exact_seconds / float(np.median(seconds)),
            "index/vectors bytes": size / exact,
        },
    ), difference


def _exact(collection: Collection, queries_QD: np.ndarray, results: list[list[Hit]]) -> tuple[int, float, float]:
    """Bytes of the vectors alone, seconds of a query that scores them all, and the part of its answers found."""
    exact = Neighbours(collection.vectors_ND, "flat", collection.folder)
    expected, seconds = [], []
    for query_D in queries_QD:
        start = time.perf_counter()
        expected.append(exact.search(query_D[None], K)[1][0])
        seconds.append(time.perf_counter() - start)
    hits = [
        len({hit.row.id for hit in item} & {f"v{position}" for position in true})
        for item, true in zip(results, expected, strict=True)
    ]
    return 4 * collection.vectors_ND.size, float(np.median(seconds)), float(np.mean(hits)) / K


def run(options: argparse.Namespace) -> Result:
    """Measures all sizes.

    Raises:
        UserError: faiss is not installed.
        CheckFailed: the index did not outlive a kill, or an addition wrote anew what was there.
    """
    load_faiss("ivf").omp_set_num_threads(torch.get_num_threads())
    if options.quick:
        options.dim, options.queries = 16, 20
    rows, differences = [], {}
    for count in options.vectors or (QUICK_SIZES if options.quick else SIZES):
        if options.folder is not None:
            Path(options.folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row, difference = measure(count, options, Path(folder))
        rows.append(row)
        differences[f"{count:,} vectors, scores after a kill"] = difference
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"queries": options.queries, "k": K, "seed": options.seed, "spread": SPREAD, "a centre": PER_CENTRE},
        checks=differences,
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["vectors", "structure", "build", "MiB", "MiB of vectors", "open and first answer", "queries/s", "exact"]
    head += ["recall@10", "add"]
    body = []
    for row in result.rows:
        index_row, exact = row.contenders["index"], row.contenders["exact"]
        scores: dict[str, Any] = index_row.scores
        body.append(
            [
                f"{row.sizes['vectors']:,} x {row.sizes['dim']}, {row.sizes['data']}",
                str(row.sizes["kind"]),
                f"{scores['build seconds']:,.1f} s",
                mebibytes(index_row.bytes),
                mebibytes(exact.bytes),
                f"{1e3 * scores['open seconds']:,.0f} ms",
                f"{scores['queries/s']:,.0f}",
                f"{exact.scores['queries/s']:,.0f}",
                f"{scores['recall@10']:.1%}",
                f"{scores['added vectors']:,.0f} in {scores['append seconds']:,.1f} s",
            ]
        )
    return (
        f"{result.settings['queries']} queries, one at a time, {result.threads} thread(s). A process that was killed "
        f"while it added left an index that gives the same answers.\n\n{markdown(head, body)}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--vectors", type=numbers, metavar="N,N", help="sizes; 10000,100000,1000000 when absent")
    options.add_argument("--dim", type=positive, default=256, help="width; 256 when absent")
    options.add_argument("--queries", type=positive, default=200, help="queries; 200 when absent")
    options.add_argument("--data", choices=("clusters", "sphere"), default="clusters", help="how vectors lie")
    options.add_argument("--seed", type=int, default=0, help="of the vectors; 0 when absent")
    options.add_argument("--folder", type=Path, help="where vectors lie meanwhile: 4 GB for a million of 256")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
