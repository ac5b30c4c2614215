"""Indexes that grow: merging, compaction, readers meanwhile, duplicates, batches and measured recall."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import segment_writer, structures
from hrt_mm.retrieval.collection import Collection, Writer, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.where import Where
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors
from tests.retrieval.structures_for_tests import of_any_size, searched

QUERIES = vectors(20, seed=99)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def grown(folder: Path, additions: int, each: int = 5) -> Index:
    """An index that was added to many times."""
    index = Index.create(folder / "index", MODEL)
    for number in range(additions):
        ids = [f"{number}-{position}" for position in range(each)]
        index.add(collection(folder / f"c{number}", ids, seed=number))
    return index


def answers(index: Index, exact: bool = True) -> list[list[tuple[Row, float]]]:
    return [[(hit.row, hit.score) for hit in hits] for hits in index.search_many(QUERIES, 7, exact=exact)]


def with_media(folder: Path, names: str, content: bytes = b"") -> Collection:
    """A collection whose rows have a media file each."""
    with writing(folder, MODEL) as writer:
        rows = [Row(name, "image", file=writer.media(".txt", content or name.encode())) for name in names]
        writer.add(vectors(len(names), seed=sum(names.encode())), rows)
    return Collection(folder)


def test_additions_are_merged_in_logarithmically_many_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    copy_rows = segment_writer._copy_rows

    def counted(writer: Writer, collection: Collection, positions: Sequence[int], *, merged: bool) -> None:
        written.append(len(positions))
        copy_rows(writer, collection, positions, merged=merged)

    monkeypatch.setattr(segment_writer, "_copy_rows", counted)
    index = grown(tmp_path, 60)
    assert len(index) == 300
    assert len(index.segments) <= 2 * segment_writer.MERGED
    # Once when added, and once for each doubling at most.
    assert sum(written) <= 300 * (1 + np.log2(300 / 5))
    folders = {path.name for path in index.folder.iterdir() if path.is_dir()}
    assert folders == {segment.entry.name for segment in index.segments}
    monkeypatch.setattr(segment_writer, "MERGED", 10**9)
    (tmp_path / "plain").mkdir()
    plain = grown(tmp_path / "plain", 60)
    assert len(plain.segments) == 60 and answers(index) == answers(plain)


def test_compaction_drops_removed_rows_and_their_media(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", [with_media(tmp_path / "a", "abc"), with_media(tmp_path / "b", "defg")])
    index.remove(["b", "f"])
    before = answers(index)
    assert index.compact() == (2, 1) and index.compact() == (1, 1)
    assert answers(index) == answers(Index(index.folder))
    names = [[(row.id, score) for row, score in hits] for hits in before]
    assert [[(row.id, score) for row, score in hits] for hits in answers(index)] == names
    media = [path.read_text() for path in index.folder.rglob("media/*/*")]
    assert sorted(media) == list("acdeg")
    for hit in index.search(QUERIES[0], 10):
        assert hit.media is not None and hit.media.read_text() == hit.row.id
    index.remove(list("acdeg"))
    assert index.compact() == (1, 0) and len(index) == 0 and index.search(QUERIES[0], 3) == []


def test_an_open_index_sees_what_other_processes_change(tmp_path: Path) -> None:
    writer = grown(tmp_path, 2)
    reader = Index(writer.folder)
    row = collection(tmp_path / "new", ["new"], seed=50)
    writer.add(row)
    assert not writer.refresh()
    assert reader.search(np.array(row.vectors_ND[0]), 1)[0].row.id == "new"
    writer.remove(["new"])
    assert reader.search(np.array(row.vectors_ND[0]), 1)[0].row.id != "new"
    assert reader.refresh() is False
    writer.compact()
    assert reader.refresh() and answers(reader) == answers(writer)


def test_a_search_whose_files_a_merge_removes_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    of_any_size(monkeypatch)
    writer = grown(tmp_path, 3)
    reader = Index(writer.folder)
    expected, refresh = answers(writer), Index.refresh

    def late(self: Index) -> bool:
        changed = refresh(self)
        if self is reader and len(writer.segments) > 1:
            writer.compact()
        return changed

    monkeypatch.setattr(Index, "refresh", late)
    assert answers(reader) == expected


def _compact(folder: Path, step: int) -> None:
    """Compacts, and dies at a system call or file."""
    counter = iter(range(10**6))

    def dying(name: str) -> None:
        original = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            if next(counter) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(os, name, call)

    for name in ("open", "rename", "unlink", "mkdir", "rmdir", "replace", "link", "scandir", "fsync"):
        dying(name)
    Index(folder).compact()


def test_compaction_may_be_killed_at_any_step(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", [with_media(tmp_path / "a", "abc"), with_media(tmp_path / "b", "defg")])
    index.remove(["b"])
    expected = [[(row.id, score) for row, score in hits] for hits in answers(index)]
    killed = 0
    for step in range(0, 60, 3):
        process = multiprocessing.get_context("fork").Process(target=_compact, args=(index.folder, step))
        process.start()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        left = Index(index.folder)
        left.verify()
        assert [[(row.id, score) for row, score in hits] for hits in answers(left)] == expected
        for hit in left.search(QUERIES[0], 10):
            assert hit.media is not None and hit.media.read_text() == hit.row.id
        if len(left.segments) == 1:
            break
    assert killed >= 3
    index.compact()
    assert {path.name for path in index.folder.iterdir() if path.is_dir()} == {index.segments[0].entry.name}


def _grow_and_compact(folder: Path, work: Path) -> None:
    index = Index(folder)
    for number in range(12):
        index.add(
            collection(work / f"n{number}", [f"n{number}-{position}" for position in range(4)], seed=100 + number)
        )
        if number % 3 == 2:
            index.compact()


def test_searches_succeed_while_another_process_adds_and_compacts(tmp_path: Path) -> None:
    index = grown(tmp_path, 3)
    process = multiprocessing.get_context("fork").Process(target=_grow_and_compact, args=(index.folder, tmp_path))
    process.start()
    counts, stop = [], time.monotonic() + 300
    while process.is_alive() and time.monotonic() < stop:
        hits = index.search(QUERIES[0], 1_000)
        counts.append(len(hits))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    process.join()
    assert process.exitcode == 0
    assert counts == sorted(counts) and all((count - 15) % 4 == 0 for count in counts)
    assert len(index.search(QUERIES[0], 1_000)) == 15 + 12 * 4


def test_many_queries_give_what_each_gives_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    of_any_size(monkeypatch)
    index = grown(tmp_path, 4, each=40)
    where = Where.parse("id ~ 3")
    choices: tuple[dict[str, Any], ...] = ({}, {"where": where}, {"exact": True})
    for options in choices:
        together = index.search_many(QUERIES, 6, **options)
        assert together == [index.search(query_D, 6, **options) for query_D in QUERIES]
    assert all("3" in hit.row.id for hits in index.search_many(QUERIES, 6, where=where) for hit in hits)
    assert index.search_many(np.zeros((0, 8)), 3) == []
    bad = QUERIES.copy()
    bad[4, 2] = np.nan
    with pytest.raises(UserError, match="the vector of query 4 is NaN or infinite"):
        index.search_many(bad, 3)
    with pytest.raises(UserError, match=r"queries are of shape \(8,\); they must be \(queries, 8\)"):
        index.search_many(QUERIES[0], 3)
    with pytest.raises(UserError, match="20 queries have 2 vectors of level 'scenes'"):
        index.search_many(QUERIES, 3, inside=1, finer={"scenes": QUERIES[:2]})


def test_duplicates_are_reported_and_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    same = vectors(3)
    with writing(tmp_path / "a", MODEL) as writer:
        writer.add(same, [Row(name, "image") for name in "abc"])
    with writing(tmp_path / "b", MODEL) as writer:
        rows = [Row("d", "image"), Row("d/0", "image", "scenes", "d"), Row("e", "text"), Row("f", "image")]
        writer.add(np.stack([same[1], same[0], same[0], vectors(4)[3]]), rows)
    index = Index.build(tmp_path / "index", [Collection(tmp_path / "a")])
    assert not caplog.messages
    assert index.add(Collection(tmp_path / "b")) == 4
    assert caplog.messages == ["duplicates by vector or media file: 1 ('d' as 'b')"]
    index.remove(["d", "e", "f"])
    assert index.add(Collection(tmp_path / "b"), skip_duplicates=True) == 2
    assert "duplicates by vector or media file, left out: 1 (" in caplog.messages[-1]
    assert sorted(hit.row.id for hit in index.search(same[0], 9)) == ["a", "b", "c", "e", "f"]
    index.remove(["b"])
    index.compact()
    with writing(tmp_path / "c", MODEL) as writer:
        writer.add(same, [Row(name, "image") for name in "xyz"])
    assert main(["index", "add", str(index.folder), str(tmp_path / "c"), "--skip-duplicates"]) == 0
    assert "4 of image, 1 of text" in capsys.readouterr().out, "b was removed, so that y is the first with its vector"
    with_media(tmp_path / "m", "mn", b"the same")
    caplog.clear()
    index.add(Collection(tmp_path / "m"))
    assert caplog.messages == ["duplicates by vector or media file: 1 ('n' as 'm')"]


def test_recall_is_measured_stored_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    of_any_size(monkeypatch, "ivfsq8")
    made = collection(tmp_path / "a", [f"a{position}" for position in range(3_000)])
    texts = collection(tmp_path / "t", [f"t{position}" for position in range(100)], tower="text", seed=5)
    assert (
        main(["index", "build", str(tmp_path / "index"), str(made.folder), str(texts.folder), "--recall", "0.9"]) == 0
    )
    index = Index(tmp_path / "index")
    (segment,) = [each for each in index.segments if each.entry.tower == "image"]
    tuning = segment.entry.tuning
    assert tuning is not None and segment.entry.kind == "ivfsq8"
    assert tuning.probes[0] < len(segment.neighbours.sizes_L), "not all lists"
    assert index.recall("image") == tuning.recall >= tuning.target == 0.9
    assert f"search finds {tuning.recall:.1%} of the true 10 nearest" in capsys.readouterr().out
    again = structures.tuned(segment.neighbours, 0.9, index._queries("image"))
    assert again == tuning
    fresh = vectors(300, seed=77)
    expected = index.search_many(fresh, 10, tower="image", exact=True)
    results = index.search_many(fresh, 10, tower="image")
    right = [
        len({h.row.id for h in one} & {h.row.id for h in other}) for one, other in zip(expected, results, strict=True)
    ]
    assert np.mean(right) / 10 >= 0.85
    assert main(["index", "show", str(index.folder)]) == 0
    exact = Index.build(tmp_path / "exact", [made], 1.0)
    assert exact.recall("image") == 1 and exact.groups()[0].search == "search is exact"
    assert exact.recall("text") is None
    with pytest.raises(UserError, match=r"the recall is 1\.5; it must be above 0 and at most 1"):
        Index.create(tmp_path / "wrong", MODEL, 1.5)


def test_search_is_exact_where_lists_are_not_worthwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors without clusters have their neighbours in most lists."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(structures, "FLAT_UP_TO", 100)
    monkeypatch.setattr(structures, "LISTS_FROM", 500)
    sphere_ND = np.random.default_rng(0).standard_normal((2_000, 64)).astype(np.float32)
    centres_ND = np.repeat(np.random.default_rng(1).standard_normal((10, 64)), 200, 0).astype(np.float32)
    kinds = []
    for name, vectors_ND in (("sphere", sphere_ND), ("clusters", centres_ND + 0.3 * sphere_ND)):
        (tmp_path / name).mkdir()
        kinds.append(structures.build(vectors_ND, tmp_path / name, 0.99)[0])
    assert kinds == ["sq8", "ivfsq8"]


def test_a_vector_that_is_far_longer_than_all_others_does_not_spoil_search(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors_ND = np.random.default_rng(0).standard_normal((3_000, 8)).astype(np.float32)
    vectors_ND[7] *= 1e6
    (tmp_path / "a").mkdir()
    assert structures.build(vectors_ND, tmp_path / "a", 0.99) == ("flat", None)
    # Exact even with codes that are useless.
    result = searched(vectors_ND, "sq8", tmp_path / "b")
    queries_QD = np.random.default_rng(1).standard_normal((12, 8)).astype(np.float32)
    for some_QD in (queries_QD, queries_QD[:1]):
        scores_QK, _ = result.search(some_QD, 10)
        np.testing.assert_allclose(scores_QK, np.sort(some_QD @ vectors_ND.T, 1)[:, :-11:-1], rtol=1e-5, atol=1e-5)
