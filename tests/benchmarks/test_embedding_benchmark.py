"""The benchmark of embedding and starting up: its tables, and what it must not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import embedding
from benchmarks.checks import CheckFailed
from benchmarks.results import Measured, Result, Row, environment
from hrt_mm.retrieval import reading


def test_the_tables_have_every_figure() -> None:
    rows = [
        Row(
            sizes={"files": 512, "side": 64, "what": "embedding"},
            contenders={
                "one by one": Measured(seconds=8.0, scores={"files/s": 64.0}),
                "batches": Measured(seconds=1.0, scores={"files/s": 512.0}),
            },
            ratios={"one by one/batches": 8.0},
        ),
        Row(sizes={"what": "start"}, contenders={"hrt-mm index show": Measured(seconds=0.25)}, ratios={}),
    ]
    facts = environment(torch.device("cpu"))
    result = Result(name="embedding", command="x", quick=False, settings={}, checks={}, rows=rows, **facts)
    text = embedding.tables(result)
    assert "batches are 8.0 times as fast" in text
    assert "| one by one | 8.00 s | 64 |" in text and "| hrt-mm index show | 0.250 s |" in text


def test_chunks_are_as_before_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        assert reading.CHUNK == 1
        raise RuntimeError("broken")

    monkeypatch.setattr(embedding, "embed_files", broken)
    before = reading.CHUNK
    with pytest.raises(RuntimeError, match="broken"):
        embedding.embedded(None, [], tmp_path / "v", 1)  # type: ignore[arg-type]
    assert before == reading.CHUNK


def test_commands_are_measured_and_failures_refused() -> None:
    assert 0 < embedding.command_seconds(["-c", "sum(range(10**6))"], 2) < 60
    with pytest.raises(CheckFailed, match="failed"):
        embedding.command_seconds(["-c", "raise SystemExit(3)"], 1)


def test_pictures_are_read_back(tmp_path: Path) -> None:
    from PIL import Image

    files = embedding.pictures(tmp_path / "pictures", 2, 8)
    assert len(files) == 2 and np.array(Image.open(files[0])).shape == (8, 8)
