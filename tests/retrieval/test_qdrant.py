"""An index in Qdrant, in this process, held against the index in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import qdrant as qdrant_module
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.qdrant import QdrantIndex
from hrt_mm.retrieval.qdrant_connection import connect
from hrt_mm.retrieval.rows import Model, Row
from hrt_mm.retrieval.where import Where
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors

pytest.importorskip("qdrant_client")


@pytest.fixture
def client() -> Iterator[Any]:
    result = connect(":memory:")
    yield result
    result.close()


def films(folder: Path) -> Collection:
    rows = [
        Row("v", "video", info={"name": "<b>a film</b>"}),
        Row("v/0", "video", "scenes", "v", (0, 4)),
        Row("v/1", "video", "scenes", "v", (4, 9)),
        Row("v/1/0", "video", "clips", "v/1", (4, 6)),
        Row("t", "text"),
    ]
    with writing(folder, MODEL) as writer:
        writer.add(np.eye(5, 8, dtype=np.float32), rows)
    return Collection(folder)


def test_it_answers_as_an_index_in_a_folder_does(tmp_path: Path, client: Any) -> None:
    many, few = collection(tmp_path / "a", [f"a{position}" for position in range(300)]), films(tmp_path / "b")
    here, there = Index.create(tmp_path / "index", MODEL), QdrantIndex.create(client, "x", MODEL)
    for index in (here, there):
        assert index.add(many) == 300
        assert index.add(few) == 5
    assert len(here) == len(there) == 305
    assert here.towers == there.towers == {"image": 300, "video": 1, "text": 1}
    assert here.remove(["a7", "v/1"]) == there.remove(["a7", "v/1"]) == 3
    queries = {level: vectors(1, seed=position)[0] for position, level in enumerate(("scenes", "clips"))}
    for query in vectors(5, seed=9):
        for options in ({}, {"tower": "image"}, {"inside": 2}, {"level": "scenes"}, {"inside": 2, "finer": queries}):
            ours, theirs = here.search(query, 7, **options), there.search(query, 7, **options)
            assert [hit.row for hit in ours] == [hit.row for hit in theirs]
            assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-5)
            inner = [[(one.row, round(one.score, 4)) for one in hit.inside] for hit in ours]
            assert inner == [[(one.row, round(one.score, 4)) for one in hit.inside] for hit in theirs]
    queries_QD = vectors(3, seed=9)
    finer = {level: np.stack([query] * 3) for level, query in queries.items()}
    for number, hits in enumerate(there.search_many(queries_QD, 4, inside=2, finer=finer)):
        assert hits == there.search(queries_QD[number], 4, inside=2, finer=queries)
    assert there.search_many(queries_QD[:0], 4) == []
    with pytest.raises(UserError, match="3 queries have 2 vectors of level 'scenes'"):
        there.search_many(queries_QD, 4, inside=1, finer={"scenes": queries_QD[:2]})


def test_it_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    client = connect(tmp_path / "database")
    QdrantIndex.create(client, "films", MODEL).add(films(tmp_path / "a"))
    client.close()
    client = connect(tmp_path / "database")
    opened = QdrantIndex(client, "films")
    assert opened.model == MODEL
    (hit,) = opened.search(np.eye(8)[0], 1, inside=1)
    assert hit.row.info == {"name": "<b>a film</b>"}
    assert opened.remove(["v"]) == 4
    client.close()


def test_bad_input_is_told(tmp_path: Path, client: Any) -> None:
    index = QdrantIndex.create(client, "x", MODEL)
    index.add(collection(tmp_path / "a", ["a1", "a2"]))
    with pytest.raises(UserError, match=r"ids that the index has already: 'a2'; remove them first"):
        index.add(collection(tmp_path / "b", ["a2", "new"]))
    with pytest.raises(UserError, match="has an id of a tower twice"):
        index.add(collection(tmp_path / "c", ["c", "c"]))
    with pytest.raises(UserError, match="is of another model"):
        index.add(collection(tmp_path / "d", ["d"], model=Model("b" * 64, 8)))
    with pytest.raises(UserError, match="the index has no row 'zzz'"):
        index.remove(["a1", "zzz"])
    with pytest.raises(UserError, match="k is 0"):
        index.search(np.zeros(8), 0)
    with pytest.raises(UserError, match=r"shape \(4,\), the index has vectors of 8"):
        index.search(np.zeros(4), 1)
    with pytest.raises(UserError, match="has a collection 'x' already"):
        QdrantIndex.create(client, "x", MODEL)
    with pytest.raises(UserError, match="no index 'y'; it has x"):
        QdrantIndex(client, "y")
    assert len(index) == 2


def test_a_failed_addition_leaves_nothing(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = QdrantIndex.create(client, "x", MODEL)
    index.add(collection(tmp_path / "a", ["a"]))
    monkeypatch.setattr(qdrant_module, "BLOCK", 10)
    upsert = client.upsert

    def full(name: str, points: list[Any]) -> Any:
        if client.count("x").count > 20:
            raise OSError("no space left")
        return upsert(name, points)

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", full)
        with pytest.raises(OSError, match="no space left"):
            index.add(collection(tmp_path / "b", [f"b{position}" for position in range(50)]))
    assert len(index) == 1
    assert index.add(Collection(tmp_path / "b")) == 50
    client.delete_payload("x-about", ["schema"], [0])
    with pytest.raises(UserError, match=r"rows of schema 1, this version reads 4; delete 'x' and 'x-about' from"):
        QdrantIndex(client, "x")
    client.delete("x-about", [0])
    with pytest.raises(UserError, match="does not say which model 'x' is of"):
        QdrantIndex(client, "x")


def test_rows_of_an_incomplete_addition_stay_hidden_from_filters_and_words(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = QdrantIndex.create(client, "shop", MODEL)
    boots = [Row(f"boot{number}", "image", info={"name": "a red boot", "colour": "red"}) for number in range(2)]
    shoes = [Row(f"shoe{number}", "image", info={"name": "a red shoe", "colour": "red"}) for number in range(4)]
    for name, rows in (("boots", boots), ("shoes", shoes)):
        with writing(tmp_path / name, MODEL) as writer:
            writer.add(vectors(len(rows), 0), rows)
    index.add(Collection(tmp_path / "boots"))
    monkeypatch.setattr(qdrant_module, "BLOCK", 2)
    upsert = client.upsert

    def gone(name: str, points: list[Any]) -> Any:
        if client.count("shop").count >= 4:
            raise ConnectionError("went away")
        return upsert(name, points)

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", gone)
        patch.setattr(client, "delete", gone)
        with pytest.raises(ConnectionError):
            index.add(Collection(tmp_path / "shoes"))
    assert client.count("shop").count == 4, "the rows that arrived must still be there, or this tests nothing"
    red = Where.parse("colour=red")
    query_D = vectors(1, 0)[0]
    names = {"boot0", "boot1"}
    assert {hit.row.id for hit in index.search(query_D, 9, where=red)} == names
    assert {hit.row.id for hit, _ in index.search_words("red", query_D, 9, where=red)} == names
    assert index.count("image", where=red) == 2
    assert index.add(Collection(tmp_path / "shoes")) == 4
    assert index.count("image", where=red) == 6
