"""Tar shards that are read in order: the losses of listed shards, damage in the middle, and servers that fail."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data import locations
from hrt_mm.data.locations import LocalFile, RemoteFile
from hrt_mm.data.registry import datasets_of, joint_datasets
from hrt_mm.data.shards import ShardSource, ShardWriter, read_shard
from hrt_mm.data.stream import ShardError, StreamedDataset, StreamError, number_of
from hrt_mm.train.sampler import Sampler
from tests.modalities.tiny_images import CLASSES, folder_of_images, interrupted, losses

DATA = {"type": "webdataset", "streaming": True, "classes": list(CLASSES)}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Eight images in three shards of train, and two in one of val and of test."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, items in folder_of_images(tmp_path / "images").items():
        writer = ShardWriter(folder, split, 6_000)
        for path, label in items:
            writer.add({"png": path.read_bytes(), "cls": CLASSES[label].encode()})
        writer.close()
    return folder


def stream(root: Path | None, split: str = "train", **values: Any) -> Any:
    where = {} if root is None else {"root": str(root)}
    return datasets_of("vision")["webdataset"].model_validate({**DATA, **where, **values}).build(split)


def samples(source: StreamedDataset, shard: int) -> list[str]:
    """The names of the samples of a shard, up to where it is broken."""
    names: list[str] = []
    try:
        for number, row in enumerate(source.open_shard(shard)):
            names.append(source.read(number_of(shard, number), row).name)
    except ShardError as error:
        names.append(str(error))
    return names


def test_they_train_as_listed_shards_and_are_resumed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "order", lambda self, epoch: range(self.length))
        expected = losses(tmp_path / "a", {"type": "webdataset", "root": str(shards)})
    data = {**DATA, "root": str(shards)}
    assert losses(tmp_path / "b", {**data, "shuffle_buffer": 1}, "train.workers=1") == expected
    split = losses(tmp_path / "c", {**data, "shuffle_buffer": 6, "stream_readers": 3})
    assert len(split) == 4 and split != expected
    assert interrupted(tmp_path / "d", {**data, "shuffle_buffer": 6, "stream_readers": 3}, monkeypatch) == split
    # No index is made of train.
    assert not (tmp_path / "cache" / "hrt_mm" / "shards").exists() or len(stream(shards).shards) == 3


def test_each_position_in_a_shard_is_resumed(shards: Path) -> None:
    name = "train-000000.tar"
    whole = ShardSource(LocalFile(shards / name), name)
    rows, states = [], []
    for row in whole:
        rows.append(row)
        states.append(json.loads(json.dumps(whole.state())))
    assert [key for key, _ in rows] == [sample.key for sample in read_shard(shards / name)] and len(rows) > 2
    for number, state in enumerate(states):
        assert list(ShardSource(LocalFile(shards / name), name, state)) == rows[number + 1 :]
    images = pickle.loads(pickle.dumps(stream(shards)))
    first = images.read(number_of(0, 0), next(images.open_shard(0)))
    assert first.name == f"{name}/00000000.png" and first.label == "cat" and first.value.shape == (3, 4, 4)
    assert images.name(number_of(1, 2)) == "train-000001.tar:2"


def members(shard: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(shard) as archive:
        return archive.getmembers()


def damaged(shard: Path, start: int, content: bytes) -> None:
    with shard.open("r+b") as file:
        file.seek(start)
        file.write(content)


def test_damage_loses_the_rest_of_a_shard_or_one_sample(shards: Path) -> None:
    name = shards / "train-000000.tar"
    whole, positions = name.read_bytes(), [member.offset for member in members(name)]
    names = samples(stream(shards), 0)
    assert len(names) == 3 and all(name.endswith(".png") for name in names)
    # Cut in the middle of the second sample, and its header damaged.
    name.write_bytes(whole[: positions[2] + 600])
    *good, error = samples(stream(shards), 0)
    assert good == names[:1] and "unexpected end of data" in error and "samples after 00000000 are lost" in error
    name.write_bytes(whole)
    damaged(name, positions[2] + 10, b"\xff" * 90)
    *good, error = samples(stream(shards), 0)
    assert good == names[:1] and "header is damaged or missing" in error
    # Cut between two samples: nothing tells whether there were others.
    name.write_bytes(whole[: positions[4]])
    *good, error = samples(stream(shards), 0)
    assert good == names[:2] and "train-000000.tar: it ends in the middle" in error
    for content, message in ((b"\x1f\x8b" + whole, "is compressed"), (b"", "is no tar file"), (b"x" * 2000, "no tar")):
        name.write_bytes(content)
        assert message in str(samples(stream(shards), 0))
    images = stream(shards)
    name.unlink()
    assert samples(images, 0) == ["train-000000.tar: there is no such file; all of its samples are lost"]
    # Bytes of one image.
    second = shards / "train-000001.tar"
    damaged(second, members(second)[0].offset_data, b"no image")
    with pytest.raises(BadSample, match=r"train-000001\.tar/0000000\d\.png: not an image"):
        images.read(number_of(1, 0), next(images.open_shard(1)))


def test_samples_with_mistakes_are_bad_and_others_are_read(tmp_path: Path, shards: Path) -> None:
    picture = next((tmp_path / "images").rglob("*.png")).read_bytes()
    writer = ShardWriter(tmp_path / "shards", "train-x", 1 << 20)
    for members in (
        {"png": picture},
        {"png": picture, "cls": b"\xff\xfe"},
        {"cls": b"cat"},
        {"png": picture, "cls": b"cat", "json": b"{"},
        {"png": picture, "cls": b"cow"},
        {"png": picture, "cls": b"dog", "json": b'{"a": 1}'},
    ):
        writer.add(members)
    writer.close()
    images = stream(shards)
    shard = images.shards.index("train-x-000000.tar")
    rows = list(images.open_shard(shard))
    for row, message in zip(rows, ("'cls'", "not UTF-8", "'file'", "not JSON"), strict=False):
        with pytest.raises(BadSample, match=rf"train-x-000000\.tar.*{message}"):
            images.read(number_of(shard, 0), row)
    with pytest.raises(ConfigError, match=r"train-x-000000\.tar:00000004: 'cow' is none of the classes"):
        images.read(number_of(shard, 4), rows[4])
    assert images.read(number_of(shard, 5), rows[5]).label == "dog"


def test_a_broken_shard_within_the_share_is_skipped_and_named(shards: Path, tmp_path: Path) -> None:
    cut = shards / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    data = {**DATA, "root": str(shards), "stream_readers": 2}
    with pytest.raises(StreamError, match=r"1 of the 3 shards of train cannot be read, more than train\.max_bad_share"):
        losses(tmp_path / "a", data)
    assert len(losses(tmp_path / "b", data, "train.max_bad_share=0.4")) == 4
    bad = json.loads((tmp_path / "b" / "run" / "summary.json").read_text())["bad_samples"]["train"]
    assert list(bad["shards"]) == ["train-000001.tar"] and "are lost" in bad["shards"]["train-000001.tar"]


def test_batches_by_tokens(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {**DATA, "root": str(shards), "stream_readers": 2}
    # Images have 4 tokens, and each reader has 12.
    words = ("train.batch_size=null", "train.batch_tokens=25", "train.workers=1")
    assert len(losses(tmp_path / "a", data, *words)) == 4
    lines = (tmp_path / "a" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["tokens"] for line in lines if "train/loss" in line] == [24, 48, 72, 96]
    with pytest.raises(ConfigError, match=r"train\.bucket_window needs all lengths in advance"):
        losses(tmp_path / "b", data, *words, "train.bucket_window=8")


def test_splits_and_settings(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [sample.label for sample in (stream(shards, "val")[index] for index in range(2))] == ["cat", "dog"]
    assert len(stream(shards, "val", eval_rows=1)) == 1 and "the first 1 samples are used" in caplog.text
    with pytest.raises(ConfigError, match=r"list them in data\.classes"):
        stream(shards, classes=[])
    for values, message in (
        ({"streaming": False, "classes": [], "stream_readers": 2}, "stream_readers has no effect without streaming"),
        ({"val": 0.2}, "val has no effect with streaming"),
        ({"stream_readers": 0}, "greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            stream(shards, **values)
    for path in shards.glob("val-*"):
        path.unlink()
    with pytest.raises(ConfigError, match="has no split val; it has test, train"):
        stream(shards, "val")
    joint: dict[str, Any] = {
        "type": "joint_webdataset",
        "root": str(shards),
        "streaming": True,
        "label_column": None,
        "sources": {"image": {"type": "image", "column": "png"}, "text": {"type": "text", "column": "cls"}},
    }
    pairs: Any = joint_datasets()["joint_webdataset"].model_validate(joint).build("train")
    sample = pairs.read(number_of(0, 0), next(pairs.open_shard(0)))
    assert sample.value["text"] == "cat" and sample.value["image"].shape == (3, 4, 4)


@pytest.fixture
def bucket(shards: Path) -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    system.store.clear()
    for shard in shards.iterdir():
        system.pipe(f"/bucket/{shard.name}", shard.read_bytes())
    yield system
    system.store.clear()


def test_remote_shards_that_vanish_and_servers_that_stop(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("hrt_mm.data.stream.time.sleep", waits.append)
    images = stream(None, shards="memory://bucket/*.tar")
    local = [samples(images, shard) for shard in range(3)]
    assert sum(map(len, local)) == 8 and not waits
    copied = stream(None, shards="memory://bucket/*.tar", shard_cache=str(tmp_path / "copies"))
    assert [samples(copied, shard) for shard in range(3)] == local
    assert len(list((tmp_path / "copies").iterdir())) == 3
    # The connection fails twice in the middle of a shard.
    read, failures = locations._Remote.read, [3, 5]

    def failing(self: Any, size: int = -1) -> bytes:
        failing.calls += 1  # type: ignore[attr-defined]
        if failing.calls in failures:  # type: ignore[attr-defined]
            raise ConnectionResetError("the connection was reset")
        return read(self, size)

    failing.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(locations._Remote, "read", failing)
    assert samples(images, 0) == local[0] and waits == [1, 2]
    bucket.rm("/bucket/train-000001.tar")
    assert samples(images, 1) == ["train-000001.tar: there is no such file; all of its samples are lost"]
    assert "there is no such file" in samples(copied, 1)[0] or samples(copied, 1) == local[1]
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFile, "open", lambda self: (_ for _ in ()).throw(ConnectionRefusedError("refused")))
        with pytest.raises(StreamError, match=r"train-000000\.tar cannot be read: refused \(attempt 6 of 6\)"):
            samples(images, 0)


def test_a_server_that_stops_leaves_a_checkpoint(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_mm.data.stream.time.sleep", lambda seconds: None)
    data = {**DATA, "shards": "memory://bucket/*.tar", "stream_readers": 2, "shuffle_buffer": 2}
    expected = losses(tmp_path / "a", data)
    opened, open_file = list[str](), RemoteFile.open

    def stopping(self: RemoteFile) -> Any:
        opened.append(self.url)
        if len(set(opened)) > 3:  # one of the test split, and two of training
            raise ConnectionRefusedError("refused")
        return open_file(self)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFile, "open", stopping)
        with pytest.raises(
            StreamError, match=r"refused \(attempt 6 of 6\); it stopped in epoch . after row 0 of train-0"
        ):
            losses(tmp_path / "b", data, "train.save_every=null")
    before = len((tmp_path / "b" / "run" / "metrics.jsonl").read_text().splitlines())
    assert before >= 1
    assert losses(tmp_path / "b", data, "train.save_every=null", resume=True) == expected
