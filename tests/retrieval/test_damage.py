"""Collections and indexes that are damaged, of the first schema, or on a disk that is full."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.data.atomic_files import LOCK
from hrt_mm.data.storage import file_checksum
from hrt_mm.retrieval import collection as collection_module
from hrt_mm.retrieval import index as index_module
from hrt_mm.retrieval import segment as segment_module
from hrt_mm.retrieval.collection import FILES, Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.lexical import FILE as WORDS
from hrt_mm.retrieval.manifest import read_manifest
from hrt_mm.retrieval.neighbours import STRUCTURE, Kind
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.segment import CONTENTS
from tests.damage import contents, full_disk, try_all
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors
from tests.retrieval.structures_for_tests import of_any_size, of_earlier_version

QUERIES = vectors(3, seed=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def rows_of(folder: Path) -> list[Any]:
    """All that a collection gives."""
    made = Collection(folder)
    made.verify()
    keys = {which: [item.tolist() for item in made._sorted[which]] for which in ("keys", "parents")}
    return [made.model, len(made), list(made.rows()), made.vectors_ND.tobytes(), keys]


def answers_of(folder: Path) -> list[Any]:
    """All that searches in an index find."""
    index = Index(folder)
    hits = [index.search(query_D, 12, inside=2) for query_D in QUERIES]
    return [
        index.model,
        len(index),
        index.towers,
        [[(hit.row, hit.score, hit.inside) for hit in item] for item in hits],
        index.search_words("b1 x", QUERIES[0], 5),
    ]


def first_schema(folder: Path) -> None:
    """Turns files into those of the first schema: without checksums, and with parts instead of towers."""
    for path in [*folder.rglob("collection.json"), *folder.rglob("manifest.json")]:
        value = json.loads(path.read_text()) | {"schema": 1}
        for key in ("checksum", "files"):
            value.pop(key, None)
        for entry in value.get("segments", []):
            del entry["sums"], entry["tuning"], entry["contents"]
            entry["part"] = entry.pop("tower")
        path.write_text(json.dumps(value))
    for path in folder.rglob("rows.jsonl"):
        # Of the same length, as rows.npy has the offsets.
        path.write_bytes(path.read_bytes().replace(b'"tower": ', b'"part":  '))


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    rows = [
        Row("é", "image", info={"name": "x"}),
        *(Row(f"é/{position}", "image", "parts", "é") for position in range(6)),
    ]
    with writing(tmp_path / "made", MODEL) as writer:
        writer.add(vectors(7), rows)
    return Collection(tmp_path / "made")


@pytest.fixture
def index(tmp_path: Path, made: Collection) -> Index:
    pytest.importorskip("faiss")
    result = Index.create(tmp_path / "index", MODEL)
    result.add(made)
    with pytest.MonkeyPatch.context() as patch:
        of_any_size(patch, "ivfsq8")
        result.add(collection(tmp_path / "b", [f"b{position}" for position in range(30)]))
    result.remove(["b3", "b7", "é/2"])
    return result


@pytest.mark.parametrize("name", [*FILES, "collection.json"])
def test_a_damaged_collection_is_refused(made: Collection, name: str) -> None:
    try_all(made.folder / name, lambda: rows_of(made.folder), bits=50)
    first_schema(made.folder)
    names = "" if name.endswith("json") else str(made.folder)
    try_all(made.folder / name, lambda: rows_of(made.folder), bits=50, same=False, names=names)


def test_a_damaged_index_is_refused(index: Index) -> None:
    files = [path for path in index.folder.rglob("*") if path.is_file() and path.name != LOCK]
    assert {path.name for path in files} >= {STRUCTURE, "removed-000006.npy", "manifest.json", *FILES}
    for path in files:
        in_every_segment = path.name in (*FILES, WORDS)
        if in_every_segment and path.parent.name != "segment-000004":
            continue
        bits = 4 if in_every_segment else 24
        try_all(path, lambda: answers_of(index.folder), bits=bits, ends=4, others=bits > 4 and path.name != STRUCTURE)
    assert answers_of(index.folder)[1] == 34


@pytest.mark.parametrize("name", ["manifest.json", "removed-*.npy"])
def test_a_damaged_index_of_the_first_schema_gives_no_other_error(index: Index, name: str) -> None:
    first_schema(index.folder)
    for path in index.folder.rglob(name):
        try_all(path, lambda: answers_of(index.folder), bits=100, same=False, names=str(index.folder))


def test_what_the_first_schema_holds_is_read_and_goes_on(tmp_path: Path, index: Index, made: Collection) -> None:
    of_earlier_version(index.folder, "hnsw")
    right = answers_of(index.folder)
    first_schema(index.folder)
    first_schema(made.folder)
    assert answers_of(index.folder) == right and len(Collection(made.folder)) == 7
    old = Index(index.folder)
    old.verify()
    old.remove(["b5"])
    old.add(collection(tmp_path / "c", ["c"]))
    assert len(Index(index.folder)) == 34
    Index(index.folder).verify()
    entries = json.loads((index.folder / "manifest.json").read_text())["segments"]
    sums = {name for entry in entries for name in entry["sums"]}
    assert sums == {STRUCTURE, CONTENTS, "removed-000006.npy", "removed-000007.npy"}
    Index(index.folder).compact()
    assert [segment.entry.kind for segment in Index(index.folder).segments] == ["flat", "flat"]


def test_a_newer_version_is_told_from_damage(index: Index, made: Collection) -> None:
    for path in (index.folder / "manifest.json", made.folder / "collection.json"):
        path.write_text('{"schema": 4}')
        with pytest.raises(UserError, match=r"has schema 4, this version reads up to 3; use the version that wrote it"):
            (Index if path.name == "manifest.json" else Collection)(path.parent)


def test_large_files_are_compared_by_verify(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", "verify", str(index.folder)]) == 0
    assert "all 3 segments are whole" in capsys.readouterr().out
    for module in (collection_module, segment_module):
        monkeypatch.setattr(module, "CHECKED_UP_TO", 100)
    for name in ("segment-000002/vectors.f32", f"segment-000004/{STRUCTURE}", "segment-000004/rows.jsonl"):
        path = index.folder / name
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        assert len(Index(index.folder)) == 34
        assert main(["index", "verify", str(index.folder)]) == 2
        assert f"{path} is damaged" in capsys.readouterr().err
        path.write_bytes(data)
    large = Collection(collection(tmp_path / "c", ["c"]).folder)
    assert not large.checked
    data = (large.folder / "vectors.f32").read_bytes()
    (large.folder / "vectors.f32").write_bytes(b"\1" + data[1:])
    with pytest.raises(UserError, match=r"vectors.f32 is damaged"):
        index.add(large)
    assert len(Index(index.folder)) == 34


def test_a_segment_of_another_model_or_size_is_named(tmp_path: Path, index: Index) -> None:
    folder = index.folder / "segment-000001"
    shutil.rmtree(folder)
    collection(folder, ["other", "two"])
    with pytest.raises(UserError, match="segment-000001 is damaged: 2 vectors, not 1"):
        Index(index.folder)


def before_and_after(folder: Path) -> tuple[dict[str, bytes], list[Any]]:
    return {name: data for name, data in contents(folder).items() if name != LOCK}, answers_of(folder)


@pytest.mark.parametrize("kind", ["flat", "sq8", "ivfsq8"])
@pytest.mark.parametrize("room", [0, 300, 1_000, 3_000, 60_000])
def test_a_full_disk_leaves_the_index_as_it_was(
    tmp_path: Path, index: Index, kind: Kind, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_any_size(monkeypatch, kind)
    with writing(tmp_path / "c", MODEL) as writer:
        kept = writer.media(".png", bytes(70_000))
        rows = [Row(f"c{position}", "image", file=kept if not position else "") for position in range(200)]
        writer.add(vectors(200, 5), rows)
    before = before_and_after(index.folder)
    with full_disk(room), pytest.raises(UserError, match=r"cannot (be )?write|cannot be written"):
        index.add(Collection(tmp_path / "c"))
    assert before_and_after(index.folder) == before
    assert index.add(Collection(tmp_path / "c")) == 200
    assert len(Index(index.folder)) == 234


def test_a_full_disk_leaves_removals_as_they_were(index: Index) -> None:
    before = before_and_after(index.folder)
    for room in (0, 100, 200, 900):
        with full_disk(room), pytest.raises(UserError, match=f"{index.folder} cannot be written: File too large; free"):
            index.remove(["b1"])
        assert before_and_after(index.folder) == before
    index.remove(["b1"])
    assert len(index) == 33


def test_no_collection_is_left_by_a_full_disk(tmp_path: Path) -> None:
    for room in (0, 2_000, 7_000):
        with full_disk(room), pytest.raises(UserError, match="vectors cannot be written: File too large"):
            collection(tmp_path / "vectors", [f"a{position}" for position in range(400)])
        assert list(tmp_path.iterdir()) == []
    assert len(collection(tmp_path / "vectors", ["a"])) == 1


def test_no_index_is_left_by_a_failed_build(tmp_path: Path, made: Collection) -> None:
    more = collection(tmp_path / "b", [f"b{position}" for position in range(100)])
    with (
        full_disk(2_000),
        pytest.raises(UserError, match=r"index.segment-\d+ cannot be written: File too large; free some space"),
    ):
        Index.build(tmp_path / "index", [made, more])
    with pytest.raises(UserError, match=r"ids that another collection has: 'é', 'é/0', 'é/1' and 4 more"):
        Index.build(tmp_path / "index", [made, made])
    assert not (tmp_path / "index").exists()
    assert len(Index.build(tmp_path / "index", [made, more])) == 107


def test_collections_are_added_together_or_not_at_all(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (collection(tmp_path / name, [name]).folder for name in ("one", "two"))
    before = before_and_after(index.folder)
    assert main(["index", "add", str(index.folder), str(one), str(two), str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a collection of vectors" in capsys.readouterr().err
    assert before_and_after(index.folder) == before
    assert main(["index", "add", str(index.folder), str(one), str(two)]) == 0
    assert len(Index(index.folder)) == 36


def test_removals_leave_no_old_files(index: Index) -> None:
    for name in ("b10", "b11", "b12"):
        index.remove([name])
    left = [path.name for path in index.folder.rglob("removed-*")]
    assert len(left) == 2, left
    (index.folder / "segment-000004" / "removed-000099.npy").write_bytes(b"half")
    (index.folder / ".segment-000099.tmp").mkdir()
    index.remove(["b13"])
    assert sorted(path.name for path in index.folder.rglob("removed-*")) != sorted(left)
    assert len(list(index.folder.rglob("removed-*"))) == 2
    assert not (index.folder / ".segment-000099.tmp").exists()
    assert len(Index(index.folder)) == 30


def test_a_reader_that_opens_while_removals_are_written(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, read = Index(index.folder), read_manifest
    seen: list[Any] = []
    names = iter(["b20", "b21"])

    def late(folder: Path) -> Any:
        result = read(folder)
        if not seen:
            seen.append(result)
            Index(folder).remove([next(names)])
        return result

    monkeypatch.setattr(index_module, "read_manifest", late)
    # What is open already is not read again.
    reader._open()
    assert len(reader) == 34 and reader.refresh() and len(reader) == 33
    seen.clear()
    assert len(Index(index.folder)) == 32


@pytest.mark.parametrize("failing", ["segment_writer.build", "index.write_manifest"])
def test_an_interrupted_addition_is_cleared_away(
    tmp_path: Path, index: Index, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = before_and_after(index.folder)

    def stop(*ignored: object) -> None:
        raise KeyboardInterrupt

    added = collection(tmp_path / "c", ["c"])
    with monkeypatch.context() as patch:
        patch.setattr(f"hrt_mm.retrieval.{failing}", stop)
        with pytest.raises(KeyboardInterrupt):
            index.add(added)
    assert before_and_after(index.folder) == before


def test_a_sum_is_that_of_the_file(made: Collection) -> None:
    files = json.loads((made.folder / "collection.json").read_text())["files"]
    for name in FILES:
        path = made.folder / name
        assert files[name] == {"bytes": path.stat().st_size, "sha256": file_checksum(path)}


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="odd"), writing(tmp_path / "a", MODEL):
        raise OSError(errno.EINVAL, "odd")
    assert list(tmp_path.iterdir()) == []


def test_media_with_an_impossible_name_is_none(tmp_path: Path) -> None:
    with writing(tmp_path / "a", MODEL) as writer:
        writer.add(np.eye(1, 8, dtype=np.float32), [Row("x", "image", file="a\0b")])
    made = Collection(tmp_path / "a")
    assert made.media(made.row(0)) is None
