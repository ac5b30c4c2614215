"""Columns and files of a run's own data in search results, and samples that are embedded and added again."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.retrieval import qdrant as qdrant_module
from hrt_mm.retrieval import qdrant_connection
from hrt_mm.retrieval.additions import Replacement
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.stores import open_index
from hrt_mm.train.loop import train
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors
from tests.retrieval.test_search_run import SMALL

SHOP = """
data:
  type: joint_manifest
  file: shop/shop.csv
  sources: {image: {type: image, column: picture}, text: {type: text, column: title}}
  label_column: null
train: {steps: 2, batch_size: 8, eval_every: 2, tensorboard: false, num_threads: 1}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, trained on a table of pictures and titles with prices."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop").mkdir()
    rows = []
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 20), np.uint8)
    for number, pixels_HW in enumerate(pixels):
        Image.fromarray(pixels_HW).save(folder / "shop" / f"{number}.png")
        split = "train" if number < 14 else "val" if number < 18 else "test"
        price = "" if number == 20 else str(number)
        rows.append({"picture": f"{number}.png", "title": f"boot {number}", "price": price, "split": split})
    with (folder / "shop" / "shop.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = SMALL.split("data:")[0] + "optim: {lr: 5.0e-3, warmup_steps: 1}" + SHOP
    (folder / "shop.yaml").write_text(config.replace("shop/shop.csv", str(folder / "shop" / "shop.csv")))
    train(load_config(folder / "shop.yaml", [f"run.dir={folder / 'run'}"]))
    return folder


@pytest.fixture(params=["folder", "database"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an index that does not exist yet."""
    if request.param == "folder":
        return str(tmp_path / "index")
    pytest.importorskip("qdrant_client")
    return f"qdrant:{tmp_path / 'database'}/index"


def test_samples_of_a_split_have_their_file_and_all_columns(
    shop: Path, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(shop / "run"), "--split", "test", "--out", str(tmp_path / "v")]) == 0
    by_key = {(row.tower, row.id): row for row in Collection(tmp_path / "v").rows()}
    file = str(shop / "shop" / "19.png")
    columns = {"picture": "19.png", "title": "boot 19", "price": "19", "split": "test"}
    assert by_key["image", "shop.csv:21"].info == {**columns, "file": file}
    assert by_key["text", "shop.csv:21"].info == columns
    assert "price" not in by_key["image", "shop.csv:22"].info
    assert main(["index", "build", where, str(tmp_path / "v")]) == 0
    capsys.readouterr()
    argv = ["search", where, "--text", "boot 19", "--find", "image", "--json"]
    assert main([*argv, "--where", "price>=19 and split=test", "-k", "9"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert {result["info"]["picture"] for result in results} == {f"{number}.png" for number in (19, 21, 22, 23)}
    assert results[0]["info"]["file"] == file


def test_a_file_that_was_edited_is_embedded_and_replaced_alone(
    shop: Path, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shop / "shop", tmp_path / "files")
    argv = ["embed", str(shop / "run"), str(tmp_path / "files"), "--tower", "image", "--level", "glyph", "--out"]
    assert main([*argv, str(tmp_path / "v")]) == 0
    assert main(["index", "build", where, str(tmp_path / "v")]) == 0
    edited = tmp_path / "files" / "3.png"
    Image.new("L", (30, 30), 7).save(edited)
    Image.new("L", (30, 30), 9).save(tmp_path / "files" / "new.png")
    capsys.readouterr()
    assert main([*argv, str(tmp_path / "w"), "--skip-known", where]) == 0
    assert "23 known and unchanged\n1 changed and were embedded again" in capsys.readouterr().out
    assert main(["index", "add", where, str(tmp_path / "w")]) == 2
    assert "ids that the index has already" in capsys.readouterr().err
    assert main(["index", "add", where, str(tmp_path / "w"), "--replace"]) == 0
    assert "1 added, 1 replaced, 0 unchanged" in capsys.readouterr().out
    assert main([*argv, str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    assert main(["index", "add", where, str(tmp_path / "whole"), "--replace"]) == 0
    assert "0 added, 0 replaced, 25 unchanged" in capsys.readouterr().out
    with open_index(where) as index:
        assert len(index) == len(Collection(tmp_path / "whole"))
        whole = Collection(tmp_path / "whole")
        for position, row in enumerate(whole.rows()):
            assert np.allclose(index.vector(row), whole.vectors_ND[position], atol=1e-6)


def test_an_edited_picture_of_a_split_has_changed(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["embed", str(shop / "run"), "--split", "val", "--out"]
    assert main([*argv, str(tmp_path / "v")]) == 0
    picture = shop / "shop" / "15.png"
    content = picture.read_bytes()
    try:
        Image.new("L", (31, 31), 5).save(picture)
        capsys.readouterr()
        assert main([*argv, str(tmp_path / "w"), "--skip-known", str(tmp_path / "v")]) == 0
    finally:
        picture.write_bytes(content)
    assert "1 of image, 1 of text; 6 known and unchanged\n1 changed" in capsys.readouterr().out


def film(folder: Path, name: str, pieces: int, seed: int, stamp: str = "") -> Collection:
    """A film with scenes, and a text."""
    rows = [Row(name, "video", stamp=stamp), Row("t", "text", info={"name": "t"})]
    rows += [Row(f"{name}/scenes/{number}", "video", "scenes", name, (number, number + 1)) for number in range(pieces)]
    with writing(folder, MODEL) as writer:
        writer.add(np.concatenate([vectors(1, seed), vectors(1, 99), vectors(pieces, seed + 1)]), rows)
    return Collection(folder)


@contextmanager
def built(where: str, first: Collection) -> Iterator[Any]:
    assert main(["index", "build", where, str(first.folder)]) == 0
    with open_index(where) as index:
        yield index


def test_pieces_are_replaced_with_their_sample(where: str, tmp_path: Path) -> None:
    first, second = film(tmp_path / "a", "film", 4, 0), film(tmp_path / "b", "film", 2, 5)
    with built(where, first) as index:
        assert index.replace([first]) == Replacement(0, 0, 2)
        assert len(index) == 6
        assert index.replace([second, collection(tmp_path / "c", ["c"])]) == Replacement(1, 1, 1)
        assert len(index) == 5 and index.towers == {"video": 1, "text": 1, "image": 1}
        hits = index.search(vectors(1, 5)[0], 9, tower="video", inside=9)
        assert [hit.row.id for hit in hits] == ["film"] and hits[0].score == pytest.approx(1, abs=1e-5)
        assert {piece.row.id for piece in hits[0].inside} == {"film/scenes/0", "film/scenes/1"}
        with pytest.raises(UserError, match="ids are unique"):
            index.replace([second, film(tmp_path / "d", "film", 2, 7)])
        assert index.replace([second]) == Replacement(0, 0, 2)


def test_stamps_tell_what_has_changed(where: str, tmp_path: Path) -> None:
    with built(where, film(tmp_path / "a", "film", 1, 0, "one")) as index:
        assert index.replace([film(tmp_path / "b", "film", 1, 3, "one")]).unchanged == 2
        assert index.replace([film(tmp_path / "c", "film", 1, 0, "two")]).replaced == 1


def test_a_replacement_that_fails_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.build(tmp_path / "index", [film(tmp_path / "a", "film", 4, 0)])
    reader = Index(tmp_path / "index")

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hrt_mm.retrieval.segment_writer.write_words", full)
        with pytest.raises(UserError, match="No space left"):
            index.replace([film(tmp_path / "b", "film", 2, 5)])
    for each in (index, reader, Index(tmp_path / "index")):
        assert len(each) == 6
        assert each.search(vectors(1, 0)[0], 1, tower="video")[0].score == pytest.approx(1, abs=1e-5)
    index.verify()
    assert index.replace([Collection(tmp_path / "b")]) == Replacement(0, 1, 1)
    assert len(reader) == 6 and reader.refresh() and len(reader) == 4


def test_a_replacement_in_a_database_goes_on_where_the_server_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qdrant_client")
    client = qdrant_connection.connect(":memory:")
    index = qdrant_module.QdrantIndex.create(client, "films", MODEL)
    index.extend([film(tmp_path / "a", "film", 4, 0)])
    new = film(tmp_path / "b", "film", 2, 5)
    upsert = client.upsert
    calls = []

    def gone(name: str, points: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise ConnectionError("went away")
        return upsert(name, points)

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", gone)
        with pytest.raises(ConnectionError):
            index.replace([new])
    assert index.search(vectors(1, 0)[0], 1, tower="video")[0].score == pytest.approx(1, abs=1e-5)
    assert index.replace([new]) == Replacement(0, 1, 1)
    (hit,) = index.search(vectors(1, 5)[0], 1, tower="video", inside=9)
    assert hit.score == pytest.approx(1, abs=1e-5) and len(hit.inside) == 2
    client.close()


def test_a_database_that_goes_away_ends_a_search_with_a_message(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("qdrant_client")
    from qdrant_client.http.exceptions import ResponseHandlingException

    address = "http://localhost:1"
    client = qdrant_connection.connect(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)
    monkeypatch.setattr("hrt_mm.retrieval.stores.connect", lambda where: qdrant_connection.Reachable(client, address))
    assert main(["embed", str(shop / "run"), "--split", "test", "--out", str(tmp_path / "v")]) == 0
    assert main(["index", "build", f"{address}/shop", str(tmp_path / "v")]) == 0
    argv = ["search", f"{address}/shop", "--text", "boot 19"]
    assert main(argv) == 0

    def gone(*args: Any, **options: Any) -> Any:
        raise ResponseHandlingException(ConnectionRefusedError("Connection refused"))

    capsys.readouterr()
    for name in ("query_points", "query_batch_points"):
        monkeypatch.setattr(client, name, gone)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert f"{address} cannot be reached or went away" in printed.err and "Traceback" not in printed.err
    assert not printed.out


# The client of a folder that is locked leaves its lock file to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = collection(tmp_path / "a", ["a"]), collection(tmp_path / "b", ["b"], seed=1)
    assert main(["index", "build", where, str(first.folder)]) == 0
    capsys.readouterr()
    writing_first = open_index(where) if where.startswith("qdrant:") else exclusive_lock(Path(where))
    with writing_first:
        for command in ("add", "remove"):
            assert main(["index", command, where, str(second.folder) if command == "add" else "a"]) == 2
            error = capsys.readouterr().err
            assert "another process" in error and "Traceback" not in error
    assert main(["index", "add", where, str(second.folder)]) == 0
    with open_index(where) as index:
        assert len(index) == 2
