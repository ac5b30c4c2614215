"""Filters and words in Qdrant, held against those of an index in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.qdrant import QdrantIndex
from hrt_mm.retrieval.qdrant_connection import connect
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.where import Where
from tests.retrieval.collections_of_vectors import MODEL, vectors

pytest.importorskip("qdrant_client")

VALUES = [
    "2010",
    "2010.0",
    "3",
    "-1.5",
    "",
    "red",
    "Red wine",
    "2024-05-06",
    "2024-05-06T00:00Z",
    "it's",
    "ÉT É",
    "1e3",
]
COLUMNS = ["year", "a.b", "size in cm", "level"]
ROWS = [
    Row(
        str(number),
        "image",
        info={
            name: VALUES[(number * step + step) % len(VALUES)]
            for step, name in enumerate(COLUMNS, 1)
            if number % (step + 1)
        },
    )
    for number in range(40)
]
PIECES = [
    Row(f"1/{number}", "image", "words", "1", info={"year": str(number)} if number else {}) for number in range(3)
]


def films(folder: Path) -> Collection:
    with writing(folder, MODEL) as writer:
        writer.add(vectors(len(ROWS) + len(PIECES)), [*ROWS, *PIECES])
    return Collection(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantIndex]:
    client = connect(":memory:")
    index = QdrantIndex.create(client, "films", MODEL)
    index.add(films(tmp_path_factory.mktemp("films") / "v"))
    yield index
    client.close()


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


columns = st.sampled_from(["year", "'a.b'", "'size in cm'", "info.level", "level", "id", "tower"])
comparisons = st.one_of(
    st.tuples(columns, st.sampled_from(["=", "!=", "~"]), st.sampled_from([*VALUES, "e", "1", "image"]).map(quoted)),
    st.tuples(columns, st.sampled_from(["<", "<=", ">", ">="]), st.sampled_from(["2010", "-2", "7", "2024-05-06"])),
    st.tuples(columns, st.sampled_from([" in ", " not in "]), st.sampled_from(["(red, 3)", "('', 2010.0)"])),
).map("".join)
filters = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})"),
        inner.map(lambda part: f"not ({part})"),
    ),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None)
@given(filters)
def test_filters_give_the_same_rows(index: QdrantIndex, text: str) -> None:
    where = Where.parse(text)
    expected = {row.id for row in ROWS if where.matches(row)}
    assert {hit.row.id for hit in index.search(vectors(1)[0], 99, level="", where=where)} == expected
    pieces = {row.id for row in PIECES if where.matches(row, ROWS[1].info)}
    assert {hit.row.id for hit in index.search(vectors(1)[0], 99, level="words", where=where)} == pieces


def test_columns_and_counts(index: QdrantIndex) -> None:
    assert index.columns == set(COLUMNS)
    assert index.count("image") == len(ROWS) and index.count("image", "words") == len(PIECES)
    where = Where.parse("year=2010")
    assert index.count("image", "", where) == sum(map(where.matches, ROWS)) > 0


@pytest.mark.parametrize("other", [False, True], ids=["one text a row", "several towers and texts"])
def test_scores_of_words_are_those_of_a_folder(tmp_path: Path, other: bool) -> None:
    names = ["black chess knight", "white chess queen", "radioactive sign", "heart", "black heart suit", "black black"]
    rows = [
        Row(f"{n}", "image", info={"name": name, **({"also": "a sign"} if other else {})})
        for n, name in enumerate(names)
    ]
    rows += [Row(f"{n}", "text", info={"name": name}) for n, name in enumerate(names[:3]) if other]
    with writing(tmp_path / "v", MODEL) as writer:
        writer.add(vectors(len(rows)), rows)
    folder = Index.build(tmp_path / "index", [tmp_path / "v"])
    client = connect(":memory:")
    database = QdrantIndex.create(client, "x", MODEL)
    database.add(Collection(tmp_path / "v"))
    for text in ("black chess knight", "chess quen", "black", "heart sign zebra", "hearts"):
        scores = [
            {hit.row.id: score for hit, score in index.search_words(text, vectors(1)[0], 9, tower="image")}
            for index in (folder, database)
        ]
        assert scores[0].keys() == scores[1].keys()
        for name, score in scores[0].items():
            assert scores[1][name] == pytest.approx(score, abs=0.1 if other else 1e-4)
    client.close()


def test_columns_are_listed_without_reading_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(":memory:")
    index = QdrantIndex.create(client, "x", MODEL)
    index.add(films(tmp_path / "v"))
    scrolled: list[str] = []
    scroll = client.scroll

    def recorded(name: str, *args: Any, **options: Any) -> Any:
        scrolled.append(name)
        return scroll(name, *args, **options)

    monkeypatch.setattr(client, "scroll", recorded)
    assert index.columns == set(COLUMNS)
    assert scrolled == ["x-about"]
    client.close()


def test_words_are_found_and_follow_changes(tmp_path: Path) -> None:
    names = ["black chess knight", "white chess queen", "radioactive sign", "heart", ""]
    client = connect(":memory:")
    index = QdrantIndex.create(client, "x", MODEL)
    with writing(tmp_path / "v", MODEL) as writer:
        rows = [Row(f"{n}", "image", info={"name": name} if name else {}) for n, name in enumerate(names)]
        writer.add(vectors(len(rows)), rows)
    index.add(Collection(tmp_path / "v"))
    query_D = vectors(1, 7)[0]

    def found(text: str, **options: Any) -> list[tuple[str, float]]:
        matches = index.search_words(text, query_D, 9, **options)
        for hit, _ in matches:
            assert hit.score == pytest.approx(float(vectors(len(rows))[int(hit.row.id)] @ query_D), abs=1e-6)
        return [(hit.row.info["name"], score) for hit, score in matches]

    name, score = found("black chess knight")[0]
    assert name == "black chess knight" and score == pytest.approx(1, abs=1e-6)
    assert found("chess quen")[0][0] == "white chess queen" and found("chess quen")[0][1] > 0.3
    assert [name for name, _ in found("chess", where=Where.parse("name~queen"))] == ["white chess queen"]
    assert found("chess", tower="text") == found("?!") == []
    texts, queries_QD = ["heart", "?!", "chess quen"], vectors(3, 8)
    alone = [index.search_words(text, query_D, 9) for text, query_D in zip(texts, queries_QD, strict=True)]
    assert index.search_words_many(texts, queries_QD, 9) == alone
    index.remove(["0"])
    assert [name for name, _ in found("chess")] == ["white chess queen"]
    assert np.isfinite([score for _, score in found("heart sign")]).all()
    client.close()
