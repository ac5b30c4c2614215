"""Search structures over few vectors, and those of earlier versions of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.data.storage import Sum
from hrt_mm.retrieval import neighbours, structures
from hrt_mm.retrieval.manifest import MANIFEST
from hrt_mm.retrieval.neighbours import FILES, STRUCTURE, Kind, Neighbours, load_faiss
from hrt_mm.retrieval.structures import build

KINDS: tuple[Kind, ...] = ("flat", "sq8", "ivfsq8", "hnsw", "ivf")


def of_any_size(patch: pytest.MonkeyPatch, kind: Kind = "sq8") -> None:
    """Uses the structure for any number of vectors, whether or not that is worthwhile."""
    patch.setattr(structures, "FLAT_UP_TO", 10**9 if kind == "flat" else 0)
    patch.setattr(structures, "LISTS_FROM", 0 if kind == "ivfsq8" else 10**9)
    patch.setattr(structures, "WORTHWHILE", 1e9)
    patch.setattr(structures, "_separates", lambda quantizer, vectors_ND: True)
    patch.setattr(neighbours, "FEW", 0)


def searched(vectors_ND: np.ndarray, kind: Kind, folder: Path, recall: float = 0.99) -> Neighbours:
    """A search with a structure that is built into a folder."""
    if kind != "flat":
        pytest.importorskip("faiss")
    folder.mkdir(exist_ok=True)
    if kind in ("hnsw", "ivf"):
        write_earlier(vectors_ND, kind, folder)
        return Neighbours(vectors_ND, kind, folder)
    with pytest.MonkeyPatch.context() as patch:
        of_any_size(patch, kind)
        built, tuning = build(vectors_ND, folder, recall)
    assert built == kind
    return Neighbours(vectors_ND, kind, folder, tuning)


def write_earlier(vectors_ND: np.ndarray, kind: Kind, folder: Path) -> None:
    """Writes a structure as earlier versions built it."""
    faiss: Any = load_faiss(kind)
    count, dim = vectors_ND.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    else:
        centroids = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(centroids, dim, max(1, round(count**0.5)), faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(vectors_ND))
    index.add(np.ascontiguousarray(vectors_ND))
    faiss.write_index(index, str(folder / STRUCTURE))


def of_earlier_version(index: Path, kind: Kind) -> None:
    """Gives all segments of an index a structure of earlier versions."""
    path = index / "manifest.json"
    value = MANIFEST.read(path)
    for entry in value["segments"]:
        folder = index / entry["name"]
        dim = value["model"]["dim"]
        write_earlier(np.fromfile(folder / "vectors.f32", np.float32).reshape(-1, dim), kind, folder)
        kept = {name: total for name, total in entry["sums"].items() if name not in FILES[entry["kind"]]}
        entry["sums"] = kept | {STRUCTURE: Sum.of_file(folder / STRUCTURE).__dict__}
        entry |= {"kind": kind, "tuning": None}
    path.write_bytes(MANIFEST.encode(json.loads(json.dumps(value))))
