"""Filters over the columns of segments, which are read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.columns import matching, read_columns
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.where import Where
from tests.retrieval.collections_of_vectors import MODEL, vectors

INFOS: tuple[dict[str, str], ...] = (
    {"year": "2010", "colour": "red"},
    {"year": "2.01e3", "colour": "Dark Red"},
    {"year": "2009", "made": "2024-05-06"},
    {"colour": "blue", "made": "2023-01-01", "id": "own"},
    {},
)
ROWS = [Row(f"r{number}", "image", info=info) for number, info in enumerate(INFOS * 3)]
PIECES = [
    Row(f"{row.id}/0", "image", "scenes", row.id, info={"colour": "white"} if row.id == "r1" else {}) for row in ROWS
]
FILTERS = [
    "year=2010",
    "year!=2010",
    "year>=2010 and colour=red",
    "colour~red or made<2024-01-01",
    "not (colour in (red, blue) or year=2009)",
    "id=r3 or info.id=own",
    "tower=image and level=scenes",
    "missing=1",
    "not missing=1 and not id~1",
]


@pytest.mark.parametrize("text", FILTERS)
def test_columns_match_what_each_row_matches(text: str) -> None:
    where = Where.parse(text)
    samples = {row.id: row for row in ROWS}
    rows = [*ROWS, *PIECES]
    names = {comparison.column for comparison in where.comparisons()}
    columns = read_columns(names, rows, lambda row: samples[row.parent].info if row.parent else {})
    expected = [where.matches(row, samples[row.parent].info if row.parent else None) for row in rows]
    assert matching(where.condition, columns).tolist() == expected
    assert where.text in ("missing=1", "not missing=1 and not id~1") or any(expected)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    with writing(tmp_path / "a", MODEL) as writer:
        writer.add(vectors(len(ROWS)), ROWS)
        writer.add(vectors(len(PIECES), seed=1), PIECES)
    return Index.build(tmp_path / "index", [Collection(tmp_path / "a")])


def test_rows_are_parsed_once_for_a_column(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    of = Row.of

    def counted(line: bytes, where: str) -> Row:
        parsed.append(where)
        return of(line, where)

    monkeypatch.setattr(Row, "of", counted)
    assert index.count("image", where=Where.parse("year>2009 and colour~red")) == 6
    assert len(parsed) == len(ROWS)
    for text, count in (("year<2010", 3), ("colour=blue", 3), ("not colour=blue", 12)):
        assert index.count("image", where=Where.parse(text)) == count
    assert len(parsed) == len(ROWS)
    assert index.count("image", where=Where.parse("made>2023-06-01")) == 3
    assert len(parsed) == 2 * len(ROWS)


def test_columns_outlive_removals(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Where.parse("colour=red")
    assert index.count("image", where=where) == 3
    assert index.count("image", "scenes", where) == 3, "pieces have the columns of their samples"
    index.remove(["r0"])
    monkeypatch.setattr(Row, "of", _refuse)
    assert index.count("image", where=where) == 2
    assert index.count("image", "scenes", where) == 2


def _refuse(*ignored: Any) -> Row:
    raise AssertionError("rows are read again")


def test_rows_of_hits_are_read_when_they_are_asked_for(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    query_D = np.array(vectors(1)[0])
    expected = [hit.row for hit in index.search(query_D, 3)]
    again = Index(index.folder)
    with monkeypatch.context() as patch:
        patch.setattr(Row, "of", _refuse)
        hits = again.search(query_D, 3)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.row for hit in hits] == expected
    assert hits == again.search(query_D, 3) and hits[0].media is None
    with pytest.raises(AttributeError, match="a hit has no colour"):
        hits[0].colour  # type: ignore[attr-defined]  # noqa: B018
