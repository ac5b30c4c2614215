"""A trained model of few steps and its index, for the pages."""

from __future__ import annotations

import pytest

from demos.glyphs import prepare
from hrt_mm.retrieval.search import Searcher

SMALL = [
    "data.scripts=[braille]", "train.steps=2", "train.batch_size=16", "train.eval_every=2", "train.tensorboard=false",
    "train.num_threads=1", "optim.warmup_steps=1",
]  # fmt: skip


@pytest.fixture(scope="session")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return prepare(tmp_path_factory.mktemp("demo"), SMALL)
