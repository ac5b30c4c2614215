"""The server: real requests over sockets, well-formed and not."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.loop import train
from tests.retrieval.test_search_run import SMALL

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from hrt_mm.retrieval.server import UPLOADS, ServerLimits, Service, create_app  # noqa: E402

LIMITS = ServerLimits(upload_bytes=1 << 16, threads=2, waiting=2, seconds=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ``run`` and an ``index``."""
    folder = tmp_path_factory.mktemp("glyphs")
    (folder / "small.yaml").write_text(SMALL)
    overrides = [f"run.dir={folder / 'run'}", "train.steps=2", "train.eval_every=2"]
    run = train(load_config(folder / "small.yaml", overrides))
    assert main(["embed", str(run), "--split", "test", "--media", "--out", str(folder / "vectors")]) == 0
    assert main(["index", "build", str(folder / "index"), str(folder / "vectors")]) == 0
    return folder


@pytest.fixture(scope="module")
def searcher(folder: Path) -> Searcher:
    return Searcher.of(folder / "index")


@dataclass
class Client:
    """Requests to a server."""

    port: int

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, path: str, value: Any = None) -> tuple[int, Any]:
        body = b"" if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"} if value is not None else {}
        status, _, answer = self.send("GET" if value is None else "POST", path, body, headers)
        return status, json.loads(answer)

    def upload(self, content: bytes, name: str = "a.png", **fields: str) -> tuple[int, Any]:
        status, _, answer = self.send("POST", "/search/file", *form(content, name, fields))
        return status, json.loads(answer)


def form(content: bytes, name: str, fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """A multipart body with its headers."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()
    ]
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + content + b"\r\n--edge--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=edge"}


@pytest.fixture(scope="module")
def client(searcher: Searcher) -> Iterator[Client]:
    with serving(searcher, LIMITS) as client:
        yield client


class serving:
    """Serves in a thread."""

    def __init__(self, searcher: Searcher, limits: ServerLimits, hosts: tuple[str, ...] = ("*",)) -> None:
        config = uvicorn.Config(create_app(searcher, limits, hosts=hosts), log_level="critical")
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Client:
        self.thread.start()
        return Client(self.socket.getsockname()[1])

    def __exit__(self, *error: object) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


def png(size: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), 255).save(file, "PNG")
    return file.getvalue()


def uploads() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{UPLOADS}*"))


def test_it_says_what_it_has(client: Client, searcher: Searcher) -> None:
    assert client.json("/health") == (200, {"status": "ok", "vectors": len(searcher.index)})
    status, about = client.json("/index")
    assert status == 200 and about["towers"] == searcher.index.towers
    assert about["recall"] == dict.fromkeys(about["towers"], 1.0)
    assert "name" in about["columns"] and about["queries"] == {"image": "vision", "text": "text"}
    status, schema = client.json("/openapi.json")
    assert {"/health", "/index", "/search", "/search/file", "/embed", "/media/{key}"} == set(schema["paths"])
    assert client.send("GET", "/docs")[0] == 200


def test_texts_are_searched_as_from_python(client: Client, searcher: Searcher) -> None:
    status, answer = client.json("/search", {"text": "six dots", "k": 4, "offset": 1})
    assert status == 200
    expected = searcher.search("six dots", 4, offset=1)
    assert [(hit["id"], hit["rank"]) for hit in answer["results"]] == [
        (hit.row.id, rank) for rank, hit in enumerate(expected, 2)
    ]
    for hit, own in zip(answer["results"], expected, strict=True):
        assert own.media is not None
        status, headers, body = client.send("GET", hit["media"])
        assert status == 200 and body == own.media.read_bytes()
        assert headers["content-type"] == "image/png" and headers["x-content-type-options"] == "nosniff"
    terms = [{"text": "six dots"}, {"text": "one", "weight": -0.5}]
    status, answer = client.json("/search", {"terms": terms, "k": 2, "find": "text"})
    assert status == 200 and len(answer["results"]) == 2 and {hit["tower"] for hit in answer["results"]} == {"text"}


def test_a_file_is_searched_by(client: Client, searcher: Searcher, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    expected = [hit.row.id for hit in searcher.search(tmp_path / "a.png", 3)]
    status, answer = client.upload(png(), options='{"k": 3}')
    assert status == 200 and [hit["id"] for hit in answer["results"]] == expected
    assert answer["query"][0]["source"] == "the upload"
    status, named = client.upload(png(), "no suffix", options='{"k": 3}', tower="image")
    assert status == 200 and named["results"] == answer["results"]
    assert not uploads()


def test_the_shell_asks_a_server(
    client: Client, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    server = ["--server", f"http://127.0.0.1:{client.port}"]
    for query in (
        ["--text", "six dots", "--minus", "one"],
        ["--image", str(tmp_path / "a.png"), "--find", "text", "--offset", "2"],
        ["--query", f"image={tmp_path / 'a.png'}", "--text", "dots"],
    ):
        assert main(["search", str(folder / "index"), *query, "-k", "3"]) == 0
        expected = capsys.readouterr().out
        assert main(["search", *server, *query, "-k", "3"]) == 0
        assert capsys.readouterr().out == expected
    assert main(["search", *server, "--text", "dots", "-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["media"].startswith("/media/")
    for argv, message in (
        (["--text", "dots", "-k", "0"], "greater than or equal to 1"),
        (["--image", str(tmp_path / "gone.png")], "gone.png cannot be read: No such file"),
        (["--text", "dots", "--run", "x"], "drop INDEX, --store and --run"),
    ):
        assert main(["search", *server, *argv]) == 2
        assert message in capsys.readouterr().err
    for address, message in (("http://127.0.0.1:9", "cannot be reached"), ("nowhere", "is no address")):
        assert main(["search", "--server", address, "--text", "dots"]) == 2
        assert message in capsys.readouterr().err


def test_texts_are_embedded(client: Client, searcher: Searcher) -> None:
    status, answer = client.json("/embed", {"texts": ["six dots", "one dot"]})
    assert status == 200
    np.testing.assert_allclose(answer["vectors"], searcher.embedder.embed(["six dots", "one dot"]), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "value", "status", "message"),
    [
        ("/search", {}, 400, "there is nothing to search for"),
        ("/search", {"text": "  "}, 400, "is empty"),
        ("/search", {"text": "x" * 10_000}, 400, "the query has 10,000 characters; it may have 2,000"),
        ("/search", {"text": "dots", "find": "sound"}, 400, "the index has no tower 'sound'; it has"),
        ("/search", {"text": "dots", "inside": 2}, 400, "the index has no pieces"),
        ("/search", {"text": "dots", "where": "year >="}, 400, "the filter is wrong at character 8"),
        ("/search", {"text": "dots", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("/search", {"text": "dots", "k": 10**9}, 422, "k: Input should be less than or equal to 1000"),
        ("/search", {"text": "dots", "kk": 3}, 422, "kk: Extra inputs are not permitted"),
        ("/search", {"text": ["dots"]}, 422, "text: Input should be a valid string"),
        ("/search", {"terms": [{"text": "/etc/passwd", "tower": "image"}]}, 400, "reads files; send one to"),
        ("/search", {"terms": [{"text": "dots", "tower": "smell"}]}, 400, "the model has no tower 'smell'"),
        ("/search", {"terms": [{"text": "dots", "weight": 0}]}, 400, "weights are finite and not 0"),
        ("/embed", {"texts": []}, 422, "texts: List should have at least 1 item"),
        ("/embed", {"texts": ["/etc/passwd"], "tower": "image"}, 400, "reads files"),
    ],
)
def test_requests_that_cannot_be_answered(client: Client, path: str, value: Any, status: int, message: str) -> None:
    answered, body = client.json(path, value)
    assert answered == status and message in body["error"]["message"] and body["error"]["type"]


def test_requests_that_are_no_json(client: Client) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 10_000, b'{"text": NaN}', b'"text"'):
        status, _, answer = client.send("POST", "/search", body, {"Content-Type": "application/json"})
        assert status in (400, 422), body
        assert json.loads(answer)["error"]["message"]
    for path in ("/nowhere", "/media/zz", "/media/../../etc/passwd", f"/media/{'0' * 16}"):
        status, _, answer = client.send("GET", path)
        assert status in (404, 422) and json.loads(answer)["error"]["message"]
    assert client.send("GET", "/search")[0] == 405


def test_bad_uploads(client: Client) -> None:
    status, body = client.upload(b"no picture")
    assert status == 400 and "not an image that can be read" in body["error"]["message"]
    assert str(Path(tempfile.gettempdir())) not in json.dumps(body)
    status, body = client.upload(png(), "a.exe")
    assert status == 400
    status, body = client.upload(png(), options='{"k": "many"}')
    assert status == 400 and "options: k:" in body["error"]["message"]
    status, _, answer = client.send(
        "POST", "/search/file", b"--edge\r\nbroken", {"Content-Type": "multipart/form-data; boundary=edge"}
    )
    assert status in (400, 422) and json.loads(answer)["error"]["message"]
    assert not uploads()


def test_bodies_over_the_limit_are_refused_before_they_are_read(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(b"POST /search/file HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
        assert b" 413 " in connection.recv(1 << 16).split(b"\r\n")[0]
    # A body without a length is counted while it arrives.
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(64):
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            pass  # it has been refused
        assert b" 413 " in connection.recv(1 << 16).split(b"\r\n")[0]
    status, body = client.upload(png() + bytes(1 << 18))
    assert status == 413 and "--max-upload-mb" in body["error"]["message"]
    assert client.json("/health")[0] == 200 and not uploads()


def test_a_client_that_disconnects_leaves_nothing(client: Client) -> None:
    body, headers = form(png(), "a.png", {})
    for sent in (b"", body[:40], body[:-4]):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            head = f"POST /search/file HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + sent)
    assert client.json("/health")[0] == 200 and not uploads()


def test_too_many_requests_are_told_to_come_back(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def slow(self: Service) -> dict[str, Any]:
        started.release()
        assert gate.wait(60)
        return {}

    monkeypatch.setattr(Service, "about", slow)
    with serving(searcher, replace(LIMITS, threads=1, waiting=0)) as client:
        waiting = threading.Thread(target=client.json, args=("/index",))
        waiting.start()
        assert started.acquire(timeout=60)
        status, headers, answer = client.send("GET", "/index")
        assert (status, headers["retry-after"]) == (503, "1")
        assert "1 requests are in progress" in json.loads(answer)["error"]["message"]
        assert client.json("/health")[0] == 200
        gate.set()
        waiting.join()
        assert client.json("/index")[0] == 200
    gate.clear()
    with serving(searcher, replace(LIMITS, seconds=0.05)) as client:
        status, body = client.json("/index")
        gate.set()
        assert status == 503 and "it takes longer than 0.05 s" in body["error"]["message"]


def test_failures_are_not_shown_to_clients(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Service) -> dict[str, Any]:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Service, "about", broken)
    with serving(searcher, LIMITS) as client:
        status, body = client.json("/index")
    assert status == 500 and body["error"]["message"] == "the server failed; its log has the reason"


def test_an_index_that_goes_away_is_not_the_fault_of_the_request(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "index", tmp_path / "index")
    with serving(Searcher.of(tmp_path / "index", folder / "run"), LIMITS) as client:
        assert client.json("/search", {"text": "dots"})[0] == 200
        (tmp_path / "index").rename(tmp_path / "elsewhere")
        status, body = client.json("/search", {"text": "dots"})
        assert status == 503 and body["error"]["type"] == "IndexUnavailable"
        assert str(tmp_path) not in json.dumps(body)
        (tmp_path / "elsewhere").rename(tmp_path / "index")
        assert client.json("/search", {"text": "dots"})[0] == 200


def test_other_names_of_the_host_are_refused(searcher: Searcher) -> None:
    with serving(searcher, LIMITS, ("localhost", "127.0.0.1")) as client:
        assert client.send("GET", "/health", headers={"Host": "evil.example"})[0] == 400
        assert client.json("/health")[0] == 200


def test_limits_are_checked() -> None:
    with pytest.raises(UserError, match="limits of a server must be positive"):
        ServerLimits(threads=0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_serves_until_a_signal(folder: Path, number: int, code: int) -> None:
    argv = [sys.executable, "-m", "hrt_mm", "serve", str(folder / "index"), "--port", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        address = line.partition(" is served at ")[2].split()[0]
        with urlopen(f"{address}/health", timeout=60) as answer:
            assert json.load(answer)["status"] == "ok"
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_mistakes_of_the_command_are_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(folder / "index"), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened on: Address already in use" in capsys.readouterr().err
    assert main(["serve", str(folder / "index"), "--port", "70000"]) == 2
    assert "a port is 0 to 65535" in capsys.readouterr().err
    assert main(["serve", str(folder / "vectors"), "--port", "0"]) == 2
    assert "is not an index" in capsys.readouterr().err
    assert main(["serve", str(folder / "index"), "--port", "0", "--threads", "0"]) == 2
    assert "limits of a server must be positive" in capsys.readouterr().err


def test_later_additions_are_found(folder: Path, tmp_path: Path) -> None:
    collection = Collection(folder / "vectors")
    index = Index.create(tmp_path / "index", collection.model)
    with serving(Searcher.of(tmp_path / "index", folder / "run"), LIMITS) as client:
        assert client.json("/search", {"text": "dots"})[1]["results"] == []
        index.add(collection)
        assert len(client.json("/search", {"text": "dots"})[1]["results"]) == 10
        index.remove([row.id for row in collection.rows() if row.tower == "image"], "image")
        assert {hit["tower"] for hit in client.json("/search", {"text": "dots"})[1]["results"]} == {"text"}
    assert os.listdir(tmp_path) == ["index"]
