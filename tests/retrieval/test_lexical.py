"""Search by the words of rows, held against the formula of BM25, and its fusion with search by vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import lexical
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.hybrid import DEPTH, fused
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.lexical import (
    WordMatch,
    Words,
    search_words,
    search_words_many,
    terms_of,
    units_of,
    words_of,
    write_words,
)
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from hrt_mm.retrieval.segment import Hit
from tests.damage import try_all
from tests.retrieval.collections_of_vectors import MODEL, vectors
from tests.retrieval.test_query import model

NAMES = [
    "black chess knight",
    "white chess queen",
    "radioactive sign",
    "Éclair au café",
    "less-than or equal to",
    "♞ horse",
    "rightwards arrow",
    "heart",
    "black heart suit with a very long name that says much more than the others do",
]


def rows_of(names: Sequence[str]) -> list[Row]:
    return [Row(f"{number}", "image", info={"name": name}) for number, name in enumerate(names)]


def found(text: str, rows: Sequence[Row], k: int = 3) -> list[str]:
    matches = search_words(text, [(Words.of(rows), np.ones(len(rows), bool))], k)
    return [next(iter(rows[match.position].info.values())) for match in matches]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("black chess knight", "black chess knight"),
        ("BLACK knight", "black chess knight"),
        ("chess quen", "white chess queen"),
        ("radioactiv", "radioactive sign"),
        ("eclair cafe", "Éclair au café"),
        ("CAFÉ", "Éclair au café"),
        ("less than", "less-than or equal to"),
        ("♞", "♞ horse"),
        ("right arow", "rightwards arrow"),
        ("heart", "heart"),
        ("heart suit", "black heart suit with a very long name that says much more than the others do"),
    ],
)
def test_words_typos_accents_and_symbols_are_found(query: str, expected: str) -> None:
    assert found(query, rows_of(NAMES))[0] == expected


def test_many_texts_give_what_each_gives_alone(tmp_path: Path) -> None:
    rows = rows_of(NAMES)
    texts = ["black knight", "heart", "heart", "?!", "black heart suit", "chess quen"]
    segments = [
        (Words.of(rows[:3]), np.ones(3, bool)),
        (Words.of(rows[3:]), np.arange(len(rows) - 3) != 1),
    ]
    assert search_words_many(texts, segments, 3) == [search_words(text, segments, 3) for text in texts]
    assert search_words_many([], segments, 3) == []
    with writing(tmp_path / "a", MODEL) as writer:
        writer.add(vectors(len(rows)), rows)
    index, queries_QD = Index.build(tmp_path / "i", [Collection(tmp_path / "a")]), vectors(len(texts), seed=5)
    many = index.search_words_many(texts, queries_QD, 3, tower="image")
    assert many == [
        index.search_words(text, query_D, 3, tower="image") for text, query_D in zip(texts, queries_QD, strict=True)
    ]
    assert [len(matches) for matches in many] == [3, 2, 2, 0, 3, 3]


def test_scores_tell_how_well_a_text_matches() -> None:
    rows = rows_of(NAMES)
    everything = [(Words.of(rows), np.ones(len(rows), bool))]
    assert [match.score for match in search_words("heart", everything, 1)] == pytest.approx([1], abs=1e-3)
    (best, *_) = search_words("black chess nite", everything, 3)
    assert 0.3 < best.score < 0.9
    assert all(match.score < 0.2 for match in search_words("quantum banana", everything, 9))
    assert search_words("?!", everything, 9) == search_words("", everything, 9) == []
    assert search_words("heart", [(Words.of([]), np.ones(0, bool))], 9) == []


def units(**info: str) -> list[str]:
    return units_of(Row("a", "image", info=info))


def test_the_texts_of_rows() -> None:
    expected = ["At night red bus", "At night", "red bus"]
    assert units(title="At night", year="2010", made="2024-05-06", file="/data/red bus.jpg") == expected
    expected = ["heart red heart herz coeur", "heart", "red heart", "herz", "coeur"]
    assert units(name="heart", text="heart", also="red heart; herz | coeur\nheart", empty="") == expected
    assert units() == [""]
    texts = {"and/or": "and/or", "scans/7 a.png": "7 a", "/a/b": "b", "C:\\x\\y.wav": "y", "km/h or so.": "km/h or so."}
    assert {text: units(name=text) for text in texts} == {text: [unit] for text, unit in texts.items()}
    long = units(**{f"c{number}": f"{number} x" + "y" * 300 for number in range(99)})
    assert len(long) == 1 and len(long[0]) == lexical.MAX_TEXT
    assert len(units(also=";".join(f"n{number}" for number in range(500)))) == lexical.MAX_UNITS
    assert words_of("\uff26ull_Width, ﬁne 日本 5°") == ["full", "width", "fine", "日本", "5", "°"]


def test_one_of_many_names_matches_like_the_only_name() -> None:
    rows = [
        Row("many", "image", info={"also": "; ".join(["herz", *(f"name {number} of it" for number in range(20))])}),
        Row("near", "image", info={"name": "herzog"}),
    ]
    (first, second) = search_words("herz", [(Words.of(rows), np.ones(2, bool))], 2)
    assert (first.position, second.position) == (0, 1) and first.score == pytest.approx(1, abs=1e-3)


TEXTS = st.lists(st.text("ab cé♞-", max_size=12), min_size=1, max_size=12)


def expected_scores(query: str, texts: Sequence[str]) -> list[float]:
    """BM25 by its formula, as a share of the query's own."""
    documents = [terms_of(text) for text in texts]
    terms = terms_of(query)

    def weight(document: dict[tuple[str, bool], int], term: tuple[str, bool]) -> float:
        frequency, length = document[term], sum(document.values())
        saturation = lexical.K1 * (1 - lexical.B + lexical.B * length / lexical.AVERAGE_LENGTH)
        return frequency * (lexical.K1 + 1) / (frequency + saturation)

    def factor(term: tuple[str, bool]) -> float:
        containing = sum(term in document for document in documents)
        idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        return idf * (lexical.WORD_WEIGHT if term[1] else 1)

    best = sum(factor(term) * weight(terms, term) for term in terms)
    return [
        min(1, sum(factor(term) * weight(document, term) for term in terms if term in document) / best) if best else 0
        for document in documents
    ]


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.text("ab cé♞-", max_size=12), st.integers(0, 11), st.integers(0, 11))
def test_scores_are_those_of_the_formula_in_any_segments(texts: list[str], query: str, cut: int, gone: int) -> None:
    rows = rows_of(texts)
    # Each text is a single unit.
    rows = [Row(row.id, "image", info={"name": text.replace(";", " ")}) for row, text in zip(rows, texts, strict=True)]
    expected = expected_scores(query, [units_of(row)[0] for row in rows])
    alive = np.ones(len(rows), bool)
    alive[gone % len(rows)] = False
    cut = min(cut, len(rows))
    whole = search_words(query, [(Words.of(rows), alive)], 99)
    parts = [(Words.of(rows[:cut]), alive[:cut]), (Words.of(rows[cut:]), alive[cut:])]
    apart = search_words(query, parts, 99)
    scores = {match.position: match.score for match in whole}
    assert scores.keys() == {n for n, score in enumerate(expected) if score > 0 and alive[n]}
    assert scores == pytest.approx({n: expected[n] for n in scores}, abs=2e-3)
    assert {match.position + cut * match.segment: match.score for match in apart} == pytest.approx(scores, abs=1e-6)
    assert [match.score for match in whole] == sorted(scores.values(), reverse=True)
    assert len(search_words(query, parts, 2)) == min(2, len(scores))


def test_files_give_what_memory_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(NAMES * 5)
    alive = np.ones(len(rows), bool)
    expected = search_words("black chess", [(Words.of(rows), alive)], 99)
    for block, folder in ((lexical.BLOCK, tmp_path / "one"), (50, tmp_path / "many")):
        monkeypatch.setattr(lexical, "BLOCK", block)
        folder.mkdir()
        write_words(folder, rows)
        opened = Words.open(folder, len(rows), "restore it", content=True)
        assert opened is not None and len(opened) == len(rows)
        assert search_words("black chess", [(opened, alive)], 99) == expected
    assert (tmp_path / "many" / lexical.FILE).stat().st_size > (tmp_path / "one" / lexical.FILE).stat().st_size
    assert Words.open(tmp_path, 3, "restore it") is None
    with pytest.raises(UserError, match=r"words\.u32 is damaged: it is of 45 rows .*; restore it"):
        Words.open(tmp_path / "one", 44, "restore it")


def test_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(NAMES)
    write_words(tmp_path, rows)

    def use() -> list[WordMatch]:
        words = Words.open(tmp_path, len(rows), "restore it")
        return search_words("black chess", [(words, np.ones(len(rows), bool))], 99) if words else []

    try_all(tmp_path / lexical.FILE, use)
    # Without the checksum, as of a large file, nothing but errors for users is raised.
    monkeypatch.setattr(lexical, "CHECKED_UP_TO", 0)
    try_all(tmp_path / lexical.FILE, use, same=False, names="damaged")


def collection(folder: Path, names: Sequence[str], first: int = 0) -> Collection:
    rows = [Row(str(first + number), "image", info={"name": name}) for number, name in enumerate(names)]
    with writing(folder, MODEL) as writer:
        writer.add(vectors(len(rows), first), rows)
    return Collection(folder)


def test_words_follow_additions_and_removals(tmp_path: Path) -> None:
    query_D = vectors(1, 9)[0]

    def names(index: Index, text: str) -> list[str]:
        hits = index.search_words(text, query_D, 99, tower="image")
        for hit, score in hits:
            assert 0 < score <= 1
            assert hit.score == pytest.approx(float(np.asarray(by_id[hit.row.id]) @ query_D), abs=1e-6)
        return [hit.row.info["name"] for hit, score in hits if score > 0.5]

    one, two = collection(tmp_path / "a", NAMES), collection(tmp_path / "b", ["chess clock"], 100)
    by_id = {
        row.id: vector_D for made in (one, two) for row, vector_D in zip(made.rows(), made.vectors_ND, strict=True)
    }
    index = Index.build(tmp_path / "index", [one])
    assert names(index, "chess clock") == []
    index.add(two)
    for opened in (index, Index(tmp_path / "index")):
        assert names(opened, "chess clock") == ["chess clock"]
        assert names(opened, "black chess knight")[0] == "black chess knight"
    index.remove(["100", "0"])
    assert names(index, "chess clock") == [] and "black chess knight" not in names(index, "black chess knight")
    index.verify()
    # Segments of earlier versions have no words; they are indexed when they are searched.
    for path in (tmp_path / "index").glob(f"segment-*/{lexical.FILE}"):
        path.unlink()
    assert names(Index(tmp_path / "index"), "white chess queen")[0] == "white chess queen"
    Index(tmp_path / "index").verify()
    assert index.search_words("heart", query_D, 9, tower="text") == []
    assert index.search_words("heart", query_D, 9, level="scenes") == []


def hit(name: str, score: float) -> Hit:
    return Hit(score, Row(name, "image"))


def test_fusion() -> None:
    hits = [hit(f"v{number}", 1 - number / 1000) for number in range(DEPTH + 50)]
    good, shared, junk = hit("w", 0.1), hits[50], hit("j", 0.2)
    result = fused(hits, [(good, 0.9), (shared, 0.8), (junk, 0.05)])
    ids = [each.row.id for each in result]
    assert ids[:4] == ["v50", "w", "v0", "v1"] or ids[:4] == ["w", "v50", "v0", "v1"]
    assert len(set(ids)) == len(ids) == len(hits) + 2
    # Results beyond those that are fused follow in their order.
    assert ids[-50:] == [f"v{number}" for number in range(DEPTH, DEPTH + 50)]
    assert ids.index("j") > 90
    by_id = {each.row.id: each for each in result}
    ranks = by_id["v50"].ranks
    assert ranks is not None and (ranks.vector, ranks.words, ranks.words_score) == (51, 2, 0.8)
    assert by_id["v50"].score == shared.score and by_id["w"].score == 0.1
    assert fused(hits[:3], [])[0].ranks is not None


def test_a_text_query_is_hybrid_unless_told_otherwise(tmp_path: Path) -> None:
    embedder = model(tmp_path, "image")
    rows = [Row(str(number), "image", info={"name": name}) for number, name in enumerate(NAMES * 30)]
    with writing(tmp_path / "v", embedder.model) as writer:
        numbers_ND = np.random.default_rng(0).normal(size=(len(rows), 12))
        writer.add(numbers_ND / np.linalg.norm(numbers_ND, axis=1, keepdims=True), rows)
    searcher = Searcher(Index.build(tmp_path / "index", [Collection(tmp_path / "v")]), embedder)
    results = searcher.search("radioactiv", 10)
    assert {each.row.info["name"] for each in results} == {"radioactive sign"}
    first = results.plain()["results"][0]
    assert first["words_rank"] in range(1, 31) and first["words_score"] > 0.3 and "vector_rank" in first
    texts = ["radioactiv", "black knight", "?!"]
    for each, alone in zip(searcher.search([*texts], 10), texts, strict=True):
        assert each.plain() == searcher.search(alone, 10).plain()
    by_vectors = searcher.search("radioactiv", 10, hybrid=False)
    assert [each.score for each in by_vectors] == sorted((each.score for each in by_vectors), reverse=True)
    assert all(each.ranks is None for each in by_vectors)
    # Pages continue each other up to the last row, beyond what is fused.
    everything = searcher.search("black knight", len(rows) + 1)
    ids = [each.row.id for each in everything]
    assert len(set(ids)) == len(ids) == len(rows)
    for size in (7, 100):
        pages = [searcher.search("black knight", size, offset=offset) for offset in range(0, len(rows), size)]
        assert [each.row.id for page in pages for each in page] == ids
    scores = [each.score for each in everything]
    threshold = sorted(scores)[len(rows) // 2]
    kept = [each.row.id for each in everything if each.score >= threshold]
    assert [each.row.id for each in searcher.search("black knight", len(rows), min_score=threshold)] == kept
