"""Memory of a saved index, once it is open and has answered: what a new process has more, apart from mapped files.

Run by :mod:`benchmarks.index`, as ``python -m benchmarks.index_memory LIBRARY PATH QUERIES``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

K = 10


def memory_of(library: str, path: Path, queries_QD: np.ndarray) -> int | None:
    """Bytes of a library's index at a path; ``None`` where the kernel does not report them."""
    queries = path.parent / "queries.npy"
    np.save(queries, queries_QD)
    command = [sys.executable, "-m", __name__, library, str(path), str(queries)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output) if output.strip() else None


def anonymous_bytes() -> int | None:
    """Memory of this process that is no file's; ``None`` where the kernel does not report it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), None)


def main(library: str, path: str, queries: str) -> None:
    """Prints the bytes."""
    queries_QD = np.load(queries)
    if library == "index":
        import torch

        from hrt_mm.retrieval.index import Index
        from hrt_mm.retrieval.neighbours import load_faiss
        from hrt_mm.retrieval.quantized import has_integer_products

        load_faiss("sq8")
        torch.set_num_threads(1)
        has_integer_products()
        before = anonymous_bytes()
        index = Index(path)
        for query_D in queries_QD:
            index.search(query_D, K)
    else:
        from .index_peers import loaded

        load = loaded(library, queries_QD.shape[1])
        before = anonymous_bytes()
        search = load(Path(path))
        for query_D in queries_QD:
            search(query_D[None])
    after = anonymous_bytes()
    print("" if before is None or after is None else max(0, after - before))


if __name__ == "__main__":
    main(*sys.argv[1:])
