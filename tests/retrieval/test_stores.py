"""Indexes in folders and in Qdrant, by one address: its local mode, and servers that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import qdrant as qdrant_module
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.qdrant import QdrantIndex
from hrt_mm.retrieval.qdrant_connection import connect
from hrt_mm.retrieval.stores import built_index, open_index, store
from tests.retrieval.collections_of_vectors import MODEL, collection, vectors

pytest.importorskip("qdrant_client")


def test_a_folder_and_a_database_take_the_same_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path / "a", ["a1", "a2"])
    collection(tmp_path / "b", ["b1"], tower="text", seed=1)
    outputs = []
    for where in (str(tmp_path / "index"), f"qdrant:{tmp_path / 'database'}/films"):
        assert main(["index", "build", "--store", where, str(tmp_path / "a")]) == 0
        assert main(["index", "add", where, str(tmp_path / "b")]) == 0
        assert main(["index", "show", "--store", where]) == 0
        assert main(["index", "remove", where, "a1"]) == 0
        assert main(["index", "add", where, str(tmp_path / "b")]) == 2
        printed = capsys.readouterr()
        assert "ids that the index has already: 'b1'" in printed.err
        lines = printed.out.replace(where, "INDEX").splitlines()
        outputs.append([line for line in lines if not line.startswith("  ")])
        with open_index(where) as index:
            assert index.search(vectors(2)[1], 3)[0].row.id == "a2"
            assert len(index) == 2
    assert outputs[0] == outputs[1] and any("2 of image, 1 of text" in line for line in outputs[0])


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_an_addition_of_which_one_collection_is_missing_adds_nothing(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path / "index") if kind == "folder" else f"qdrant:{tmp_path / 'database'}/films"
    for name in "abc":
        collection(tmp_path / name, [name])
    assert main(["index", "build", where, str(tmp_path / "a")]) == 0
    added = [str(tmp_path / "b"), str(tmp_path / "c")]
    assert main(["index", "add", where, *added, str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a collection" in capsys.readouterr().err
    with open_index(where) as index:
        assert len(index) == 1
    assert main(["index", "add", where, *added]) == 0
    with open_index(where) as index:
        assert len(index) == 3


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    twins = [collection(tmp_path / name, ["twin"]) for name in "ab"]
    for where in (tmp_path / "index", f"qdrant:{tmp_path / 'database'}/films"):
        with pytest.raises(UserError), built_index(where, twins):
            pass
        with pytest.raises(UserError), open_index(where):
            pass
        with built_index(where, twins[:1]) as index:
            assert len(index) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://localhost:6333", "does not end with the name of an index"),
        ("http://localhost:6333/a b", "does not end with the name of an index"),
        ("http://localhost:6333/films-about", "does not end with the name of an index"),
        ("https://user:secret@host/films", "no user, password or query; give the key as QDRANT_API_KEY"),
        ("qdrant:", "does not end with the name of an index"),
    ],
)
def test_addresses_that_are_none(address: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=message):
        store(address)
    assert main(["index", "show", address]) == 2
    error = capsys.readouterr().err
    assert message in error and "secret" not in error


# The client of a folder that is locked leaves its lock file to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection(tmp_path / "a", ["a"])
    database = f"qdrant:{tmp_path / 'database'}/films"
    for argv, message in (
        (["show"], "name the index"),
        (["show", "x", "--store", "y"], "the index is given twice"),
        (["add", "x"], "name at least one collection"),
        (["remove", "--store", "x"], "name at least one id"),
        (["show", database], "does not exist"),
        (["build", database, str(tmp_path / "a"), "--exact"], "--recall has no effect in a database"),
    ):
        assert main(["index", *argv]) == 2
        assert message in capsys.readouterr().err
    assert main(["index", "build", database, str(tmp_path / "a")]) == 0
    assert main(["index", "verify", database]) == 2
    assert "which checks its own files" in capsys.readouterr().err
    with open_index(database), pytest.raises(UserError, match="is open in another process"), open_index(database):
        pass


class Gone(ConnectionError):
    """The database went away."""


def test_rows_of_an_interrupted_addition_are_hidden_and_it_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_module, "BLOCK", 10)
    client = connect(":memory:")
    index = QdrantIndex.create(client, "films", MODEL)
    index.add(collection(tmp_path / "a", ["a1", "a2"]))
    many = collection(tmp_path / "b", [f"b{number}" for number in range(45)], seed=1)
    upsert, calls = client.upsert, []

    def gone(*args: Any, **options: Any) -> Any:
        raise Gone("went away")

    def fails(name: str, points: Any) -> Any:
        calls.append(name)
        if calls.count("films") > 3:
            monkeypatch.setattr(client, "delete", gone)
            raise Gone("went away")
        return upsert(name, points)

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", fails)
        delete = client.delete
        with pytest.raises(Gone):
            index.add(many)
    monkeypatch.setattr(client, "delete", delete)
    assert client.count("films").count == 2 + 30
    reader = QdrantIndex(client, "films")
    assert len(reader) == 2 and reader.towers == {"image": 2}
    assert {hit.row.id for hit in reader.search(vectors(1)[0], 10)} == {"a1", "a2"}
    with pytest.raises(UserError, match="the index has no row 'b1'"):
        reader.remove(["b1"])
    other = collection(tmp_path / "c", ["b1"], seed=2)
    with pytest.raises(UserError, match="ids that the index has already: 'b1'"):
        reader.add(other)
    assert reader.add(many) == 45
    assert len(index) == len(reader) == 47
    (hit,) = index.search(vectors(45, 1)[7], 1)
    assert hit.row.id == "b7" and hit.row.info == {"name": "b7"}
    client.close()


@pytest.fixture
def failing() -> Iterator[Callable[..., str]]:
    """Starts servers that fail in a way, and gives their addresses."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int = 0) -> str:
        class Handler(BaseHTTPRequestHandler):
            keys: list[str | None] = []

            def answer(self) -> None:
                self.keys.append(self.headers.get("api-key"))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                # In the middle of an answer.
                self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"result": {"exi')
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                """Prints nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (0, "cannot be reached or went away"),
        (401, "refuses the key; set QDRANT_API_KEY"),
        (403, "refuses the key; set QDRANT_API_KEY"),
        (500, "answers collection_exists with status 500"),
    ],
)
def test_servers_that_fail(
    failing: Callable[..., str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "a-secret-key")
    collection(tmp_path / "a", ["a"])
    address = f"{failing(status)}/films"
    for argv in (["show", address], ["build", address, str(tmp_path / "a")], ["remove", address, "a"]):
        assert main(["index", *argv]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and "a-secret-key" not in printed.err + printed.out
        assert "Traceback" not in printed.err


def test_a_server_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "show", "http://127.0.0.1:9/films"]) == 2
    assert "http://127.0.0.1:9 cannot be reached or went away" in capsys.readouterr().err


def test_the_order_of_answers_is_that_of_a_folder(tmp_path: Path) -> None:
    rows = collection(tmp_path / "a", [f"a{number}" for number in range(60)])
    here = Index.build(tmp_path / "index", [rows])
    with built_index(f"qdrant:{tmp_path / 'database'}/films", [rows]) as there:
        for query_D in vectors(3, seed=5):
            ours, theirs = here.search(query_D, 5), there.search(query_D, 5)
            assert [hit.row for hit in ours] == [hit.row for hit in theirs]
        keys = [row.key for row in rows.rows()][:3]
        assert {row.id for row in there.rows_with(keys)} == {row.id for row in here.rows_with(keys)}
        assert there.columns == here.columns == {"name"}
        assert there.media(keys[0]) is None
    assert json.loads((tmp_path / "a" / "collection.json").read_text())["count"] == 60
    assert np.isfinite(Collection(tmp_path / "a").vectors_ND).all()
