"""Random vectors, and collections of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.rows import Model, Row

MODEL = Model("a" * 64, 8, "runs/x")


def vectors(count: int, seed: int = 0) -> np.ndarray:
    result = np.random.default_rng(seed).normal(size=(count, MODEL.dim)).astype(np.float32)
    return result / np.linalg.norm(result, axis=1, keepdims=True)


def collection(
    folder: Path, ids: Sequence[str], *, tower: str = "image", seed: int = 0, model: Model = MODEL
) -> Collection:
    with writing(folder, model) as writer:
        if ids:
            writer.add(vectors(len(ids), seed)[:, : model.dim], [Row(name, tower, info={"name": name}) for name in ids])
    return Collection(folder)
