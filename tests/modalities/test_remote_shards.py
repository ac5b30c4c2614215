"""Shards behind URLs: in memory, and over HTTP with and without requests for ranges."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data import locations
from hrt_mm.data.locations import LocalFile, RemoteFile, shards_of
from hrt_mm.data.registry import datasets_of
from hrt_mm.data.shards import ShardWriter
from tests.modalities.tiny_images import CLASSES, folder_of_images, interrupted, losses

fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards of images of three splits, with three samples in each."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, items in folder_of_images(tmp_path / "images").items():
        writer = ShardWriter(folder, split, 6_000)
        for path, label in items:
            writer.add({"png": path.read_bytes(), "cls": CLASSES[label].encode()})
        writer.close()
    return folder


def in_memory(folder: Path) -> str:
    system = fsspec.filesystem("memory")
    for shard in folder.iterdir():
        system.pipe(f"/bucket/{shard.name}", shard.read_bytes())
    return "memory://bucket/*.tar"


def images(split: str = "train", **values: Any) -> Any:
    return datasets_of("vision")["webdataset"].model_validate({"type": "webdataset", **values}).build(split)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serves a folder on this machine, and returns the address."""
    servers = []

    def start(folder: Path, handler: type[SimpleHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Plain(SimpleHTTPRequestHandler):
    """Answers with whole files, as the standard library does."""

    def log_message(self, *words: Any) -> None:
        pass


class Ranges(Plain):
    """Answers requests for ranges."""

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        if requested is None:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = (int(number) for number in requested.removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}")
        self.send_header("Content-Length", str(len(content[first : last + 1])))
        self.end_headers()
        self.wfile.write(content[first : last + 1])


def test_patterns() -> None:
    assert [str(shard) for shard in shards_of("s3://b/{train,val}-{08..10}.tar")] == [
        f"s3://b/{split}-{number}.tar" for split in ("train", "val") for number in ("08", "09", "10")
    ]
    assert shards_of("/data/train-0.tar") == [LocalFile(Path("/data/train-0.tar"))]
    assert shards_of("memory://b/{3..3}.tar") == [RemoteFile("memory://b/3.tar")]
    for pattern, message in {
        "s3://b/{9..1}.tar": "must lead from a number to a larger one",
        "s3://b/{0..1999}{0..1999}.tar": "stands for more than",
        "memory://none/*.tar": "nothing matches",
        "/none/*.tar": "nothing matches",
    }.items():
        with pytest.raises(ConfigError, match=message):
            shards_of(pattern)


def test_remote_and_local_shards_train_alike(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = losses(tmp_path / "a", {"type": "webdataset", "root": str(shards)})
    assert len(expected) == 4
    remote = {"type": "webdataset", "shards": in_memory(shards)}
    assert losses(tmp_path / "b", remote) == expected
    assert interrupted(tmp_path / "c", remote, monkeypatch) == expected
    local = {"type": "webdataset", "shards": [str(shards / "{train,val}-*.tar"), f"file://{shards}/test-000000.tar"]}
    assert losses(tmp_path / "d", local) == expected
    dataset = images(shards="memory://bucket/{train-000000,train-000001,train-000002,val-000000}.tar")
    assert dataset.name(3) == "train-000001.tar/00000003.png"
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3].value, dataset[3].value)


def test_http(shards: Path, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    # As if shards were larger than what is read at once.
    monkeypatch.setattr(locations, "_BLOCK", 512)
    expected = images(root=shards)
    names = "{train-000000,train-000001,train-000002,val-000000,test-000000}.tar"
    ranges = f"{serve(shards, Ranges)}/{names}"
    dataset = images(shards=ranges)
    assert all(torch.equal(one.value, other.value) for one, other in zip(dataset, expected, strict=True))
    # Connections of this process are not those of its workers.
    remote, local = {"type": "webdataset", "shards": ranges}, {"type": "webdataset", "root": str(shards)}
    options = ("train.steps=2", "train.test=false")
    assert losses(tmp_path / "a", remote, "train.workers=1", *options) == losses(tmp_path / "b", local, *options)
    plain = f"{serve(shards, Plain)}/{names}"
    with pytest.raises(ConfigError, match=r"train-000000\.tar.* cannot be read: .*set data\.shard_cache to a folder"):
        images(shards=plain)
    for _ in range(2):
        copied = images(shards=plain, shard_cache=tmp_path / "copies")
        assert all(torch.equal(one.value, other.value) for one, other in zip(copied, expected, strict=True))
        assert len(list((tmp_path / "copies").iterdir())) == 5
    with pytest.raises(ConfigError, match=r"absent\.tar cannot be read"):
        images(shards=plain.partition("{")[0] + "absent.tar")


def test_mistakes_are_named(shards: Path, tmp_path: Path) -> None:
    pattern, system = in_memory(shards), fsspec.filesystem("memory")
    dataset = images(shards=pattern)
    whole = system.cat("/bucket/train-000001.tar")
    system.pipe("/bucket/train-000001.tar", whole[:1500])
    locations._handles._reset()
    with pytest.raises(BadSample, match=r"train-000001\.tar/00000003\.png: cannot be read: the shard was changed"):
        dataset[3]
    with pytest.raises(ConfigError, match=r"memory://.*train-000001\.tar ends in the middle after"):
        images(shards=pattern)
    system.rm("/bucket/train-000001.tar")
    with pytest.raises(BadSample, match=r"train-000001\.tar/00000003\.png: cannot be read"):
        dataset[3]
    with pytest.raises(ConfigError, match=r"xyz://bucket/a\.tar cannot be read: .*xyz"):
        images(shards="xyz://bucket/a.tar")
    for values, message in (
        ({"shards": "a.tar", "root": "b"}, "root and shards both"),
        ({}, "give one of them"),
        ({"root": "b", "shard_cache": "c"}, "shard_cache is for remote shards"),
    ):
        with pytest.raises(ValueError, match=message):
            images(**values)


def test_texts_of_remote_shards_are_no_paths(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("1.json")
        fields = json.dumps({"image": str(tmp_path / "secret.png")}).encode()
        member.size = len(fields)
        archive.addfile(member, io.BytesIO(fields))
    fsspec.filesystem("memory").pipe("/bucket/train-0.tar", content.getvalue())
    with pytest.raises(ConfigError, match=r"train-0\.tar:1: image is a text, and shards of data\.shards have no files"):
        images(shards="memory://bucket/train-0.tar", path_column="image", label_column=None)
