from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.manifest import MANIFEST
from hrt_mm.retrieval.neighbours import Kind
from hrt_mm.retrieval.rows import Model, Row
from tests.processes import forkserver
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors
from tests.retrieval.structures_for_tests import KINDS, of_any_size, of_earlier_version


@pytest.fixture
def index(tmp_path: Path) -> Index:
    result = Index.create(tmp_path / "index", MODEL)
    result.add(collection(tmp_path / "a", [f"a{position}" for position in range(30)]))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_what_a_full_search_does(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "flat":
        pytest.importorskip("faiss")
    of_any_size(monkeypatch, "flat" if kind in ("hnsw", "ivf") else kind)
    made = collection(tmp_path / "a", [f"a{position}" for position in range(200)])
    Index.create(tmp_path / "index", MODEL).add(made)
    if kind in ("hnsw", "ivf"):
        of_earlier_version(tmp_path / "index", kind)
    index = Index(tmp_path / "index")
    assert [segment.entry.kind for segment in index.segments] == [kind]
    recall = index.recall("image")
    assert (recall is None) == (kind in ("hnsw", "ivf")) and (recall is None or recall >= 0.99)
    index.remove(["a7", "a8"])
    right = 0
    for query in vectors(20, seed=9):
        scores = made.vectors_ND @ query
        scores[[7, 8]] = -np.inf
        expected = [f"a{position}" for position in np.argsort(-scores)[:5]]
        hits = index.search(query, 5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert not {"a7", "a8"} & {hit.row.id for hit in hits}
        right += len({hit.row.id for hit in hits} & set(expected))
    assert right == 100 if kind in ("flat", "sq8") else right >= 80
    expected_hits = [index.search(query, 5, exact=True) for query in vectors(20, seed=9)]
    index.compact()
    index.verify()
    assert [segment.entry.kind for segment in index.segments] == ["flat" if kind in ("hnsw", "ivf") else kind]
    hits_of = [[(hit.row, hit.score) for hit in hits] for hits in expected_hits]
    for search in (index, Index(index.folder)):
        again = search.search_many(vectors(20, seed=9), 5, exact=True)
        assert [[(hit.row, hit.score) for hit in hits] for hits in again] == hits_of


def test_what_is_added_is_found_beside_what_was_there(tmp_path: Path, index: Index) -> None:
    before = {path: path.stat().st_mtime_ns for path in index.folder.glob("segment-*/*")}
    more = collection(tmp_path / "b", ["b0", "b1"], seed=1)
    assert index.add(more) == 2
    assert len(index) == 32
    opened = Index(index.folder)
    assert opened.search(np.array(more.vectors_ND[1]), 1)[0].row == Row("b1", "image", info={"name": "b1"})
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there is not written anew"


def test_parts_and_levels_are_searched_apart_and_pieces_within(tmp_path: Path) -> None:
    rows = [
        Row("v", "video"),
        Row("v/0", "video", "scenes", "v", (0, 4)),
        Row("v/1", "video", "scenes", "v", (4, 9)),
        Row("v/1/0", "video", "clips", "v/1", (4, 6)),
        Row("t", "text"),
    ]
    with writing(tmp_path / "a", MODEL) as writer:
        writer.add(np.eye(5, 8, dtype=np.float32), rows)
    index = Index.create(tmp_path / "index", MODEL)
    index.add(Collection(tmp_path / "a"))
    assert index.towers == {"video": 1, "text": 1}
    query = np.array([0.1, 0.2, 0.3, 0.9, 0.5, 0, 0, 0])
    assert [hit.row.id for hit in index.search(query, 9)] == ["t", "v"]
    assert [hit.row.id for hit in index.search(query, 9, tower="video", level="scenes")] == ["v/1", "v/0"]
    (result,) = index.search(query, 9, tower="video", inside=1)
    assert [inner.row.span for inner in result.inside] == [(4, 9)]
    assert [inner.row.id for inner in result.inside[0].inside] == ["v/1/0"]
    assert index.remove(["v"]) == 4
    assert index.towers == {"text": 1}


def test_bad_input_is_told(tmp_path: Path, index: Index) -> None:
    with pytest.raises(UserError, match=r"ids that the index has already: 'a3', 'a4'; remove them first"):
        index.add(collection(tmp_path / "b", ["a3", "a4", "new"]))
    with pytest.raises(UserError, match="two rows of tower 'image' with id 'c'"):
        index.add(collection(tmp_path / "c", ["c", "c"]))
    with pytest.raises(
        UserError, match=r"is of another model \(bbbbbbbbbbbb\) than the index \(aaaaaaaaaaaa in runs/x"
    ):
        index.add(collection(tmp_path / "d", ["d"], model=Model("b" * 64, 8)))
    with pytest.raises(UserError, match="has vectors of 4 numbers, the index of 8"):
        index.add(collection(tmp_path / "e", ["e"], model=Model("a" * 64, 4)))
    with pytest.raises(UserError, match="the index has no row 'zzz'"):
        index.remove(["a1", "zzz"])
    with pytest.raises(UserError, match=r"shape \(4,\), the index has vectors of 8"):
        index.search(np.zeros(4), 1)
    with pytest.raises(UserError, match="k is 0"):
        index.search(np.zeros(8), 0)
    with pytest.raises(UserError, match="is not an index"):
        Index(tmp_path / "a")
    with pytest.raises(UserError, match="is not empty"):
        Index.create(index.folder, MODEL)
    with pytest.raises(UserError, match="is there already"):
        collection(tmp_path / "a", ["x"])
    assert len(Index(index.folder)) == 30


def test_an_empty_index_and_a_large_k(tmp_path: Path, index: Index) -> None:
    assert len(index.search(vectors(1)[0], 1000)) == 30
    empty = Index.create(tmp_path / "empty", MODEL)
    assert empty.search(vectors(1)[0], 5) == []
    assert empty.add(collection(tmp_path / "none", [])) == 0
    assert Index(tmp_path / "empty").search(vectors(1)[0], 5) == []


def test_an_id_that_was_removed_can_come_back(tmp_path: Path, index: Index) -> None:
    assert index.remove(["a5"]) == 1
    again = collection(tmp_path / "b", ["a5"], seed=3)
    index.add(again)
    assert index.search(np.array(again.vectors_ND[0]), 1)[0].row.id == "a5"
    assert len(index) == 30


def test_metadata_stays_text_and_files_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    with writing(tmp_path / "a", MODEL) as writer:
        kept = writer.media(".png", b"mine")
        rows = [
            Row("<script>", "image", file=kept, info={"name": "<b>x</b>"}),
            Row("../up", "image", file="../../secret.png"),
            Row("abs", "image", file=str(tmp_path / "secret.png")),
        ]
        writer.add(vectors(3), rows)
    index = Index.create(tmp_path / "index", MODEL)
    index.add(Collection(tmp_path / "a"))
    hits = {hit.row.id: hit for hit in index.search(vectors(1)[0], 3)}
    assert hits["<script>"].row.info == {"name": "<b>x</b>"}
    media = hits["<script>"].media
    assert media is not None and media.read_bytes() == b"mine"
    assert hits["../up"].media is None
    assert hits["abs"].media is None


def test_a_manifest_cannot_lead_out_of_the_index(index: Index) -> None:
    path = index.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["segments"][0]["name"] = "../../elsewhere"
    del manifest["checksum"]
    path.write_bytes(MANIFEST.encode(manifest))
    with pytest.raises(UserError, match="names a file outside the index"):
        Index(index.folder)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="the vector of 'bad' is NaN or infinite"),
        writing(tmp_path / "a", MODEL) as writer,
    ):
        writer.add(np.full((1, 8), np.nan), [Row("bad", "image")])
    assert not (tmp_path / "a").exists()


def test_a_file_cut_short_is_told(tmp_path: Path, index: Index) -> None:
    path = next(index.folder.glob("segment-*/vectors.f32"))
    os.truncate(path, path.stat().st_size - 32)
    with pytest.raises(
        UserError,
        match=r"vectors.f32 is cut short: expected 960 bytes, found 928; .* or build the index again",
    ):
        Index(index.folder)


def _add_and_die(folder: Path, added: Path, moment: str) -> None:
    """Dies by SIGKILL in the middle of an add."""

    def die(*ignored: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    module, name = moment.split(".")
    setattr(import_module(f"hrt_mm.retrieval.{module}"), name, die)
    Index(folder).add(Collection(added))


@pytest.mark.parametrize("moment", ["segment_writer.build", "index.write_manifest", "manifest.replace_file"])
def test_a_kill_in_the_middle_of_an_add_leaves_the_last_good_index(tmp_path: Path, index: Index, moment: str) -> None:
    added = collection(tmp_path / "b", [f"b{position}" for position in range(10)], seed=1)
    process = multiprocessing.get_context("fork").Process(
        target=_add_and_die, args=(index.folder, added.folder, moment)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = Index(index.folder)
    assert len(left) == 30
    assert left.search(vectors(1)[0], 3)[0].row.id == "a0"
    assert left.add(added) == 10
    assert len(Index(index.folder)) == 40
    named = {entry.entry.name for entry in left.segments}
    assert {path.name for path in index.folder.iterdir() if path.is_dir()} == named, "nothing half done stays"


def _add_one_by_one(folder: Path, number: int, count: int) -> None:
    # Where it hangs, the output of the test says where.
    faulthandler.dump_traceback_later(300, exit=True)
    index, position = Index(folder), 0
    own = [
        collection(folder.parent / f"own-{number}" / str(at), [f"{number}-{at}"], seed=number) for at in range(count)
    ]
    while position < count:
        try:
            index.add(own[position])
        except UserError as error:
            if "is being written by another process" not in str(error):
                raise
            time.sleep(0.002)
        else:
            position += 1


def test_what_several_processes_add_at_once_is_all_there(index: Index) -> None:
    writers = [forkserver.Process(target=_add_one_by_one, args=(index.folder, number, 8)) for number in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0, 0]
    result = Index(index.folder)
    assert len(result) == 30 + 3 * 8
    ids = {row.id for segment in result.segments for row in segment.collection.rows()}
    assert {f"{number}-{position}" for number in range(3) for position in range(8)} <= ids


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_refused(index: Index, value: float) -> None:
    query = vectors(1)[0]
    query[3] = value
    with pytest.raises(UserError, match=r"the query's vector is NaN or infinite.*; the model's weights"):
        index.search(query, 1)
