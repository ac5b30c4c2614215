from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from benchmarks import index as benchmark
from benchmarks.checks import CheckFailed
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.rows import Model, Row

CHANGES = ("half removed", "nearest removed", "duplicates")


def test_a_quick_run_builds_kills_appends_and_compares(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "1", "--folder", str(tmp_path), "--json", str(path)]
    assert main(benchmark.arguments(), benchmark.run, benchmark.tables, argv) == 0
    result = read(path)
    assert [row.sizes["kind"] for row in result.rows] == ["flat", "ivfsq8", "additions"]
    assert len(result.checks) == 2 and all(value == 0 for value in result.checks.values())
    flat, lists = (row.contenders["index"] for row in result.rows[:2])
    assert flat.scores["recall@10"] == 1
    assert 0.95 < (lists.scores["recall@10"] or 0) <= 1
    small = result.rows[0].contenders
    libraries = {"hnswlib": "hnswlib", "usearch": "usearch i8"}
    installed = {peer for library, peer in libraries.items() if importlib.util.find_spec(library)}
    assert {"faiss flat", "faiss HNSW"} | installed < set(small)
    assert all((peer.scores["recall@10"] or 0) > 0.9 for peer in small.values())
    grown, compacted = result.rows[2].contenders.values()
    assert (grown.scores["segments"] or 0) > (compacted.scores["segments"] or 0) == 1
    assert (grown.bytes or 0) > 1.5 * (compacted.bytes or 0)
    for item in (flat, lists):
        assert item.scores["half removed, recall@10"] == 1 or item is lists
        assert min(item.scores[f"{what}, recall@10"] or 0 for what in CHANGES) > 0.9
        assert item.scores["duplicates in the order of addition"] == 1
        assert item.scores["added found first"] is not None and item.scores["added found first"] > 0.9
        assert item.seconds and item.scores["build seconds"]
    assert (lists.bytes or 0) > 20_500 * 16 * (4 + 1), "the vectors, and their codes"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "nothing stays behind"


def test_an_index_that_answers_otherwise_is_told() -> None:
    one, other = Hit(0.5, Row("a", "image")), Hit(0.5, Row("b", "image"))
    assert benchmark.must_be_the_same([[one]], [[Hit(0.25, one.row)]]) == 0.25
    with pytest.raises(CheckFailed, match="answers otherwise than before"):
        benchmark.must_be_the_same([[one]], [[other]])


def test_an_addition_that_is_done_too_soon_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("0" * 64, 4)
    index = Index.create(tmp_path / "index", model)
    added = benchmark.collected(tmp_path / "more", 3, "m", 0, None, model)
    monkeypatch.setattr(Index, "add", lambda self, collection: 0)
    with pytest.raises(CheckFailed, match="done before it could be killed"):
        benchmark.killed_while_adding(index, added)


def test_vectors_have_length_one_and_lie_around_their_centres() -> None:
    centres = benchmark.drawn(4, 64, None, 1)
    near, anywhere = benchmark.drawn(50, 64, centres, 2), benchmark.drawn(50, 64, None, 2)
    for vectors in (near, anywhere):
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    assert (near @ centres.T).max(1).mean() > 0.6
    assert (anywhere @ centres.T).max(1).mean() < 0.3
