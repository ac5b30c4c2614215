from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.contained import FileCell
from hrt_mm.data.shards import ShardWriter, read_shard, rows_of_shard


def tar(file: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


MEMBERS = {
    "a/1.jpg": b"first" * 200,
    "a/1.cls": b"cat\n",
    "a/1.json": b'{"width": 3, "caption": "a cat"}',
    "../2.JPG": b"second",
    "../2.seg.png": b"third",
    "../2.txt": "größer".encode(),
}


def test_members_become_rows(tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", MEMBERS)
    for _ in range(2):
        # The second time by the cached index.
        rows = dict(rows_of_shard(shard, read_shard(shard, tmp_path / "cache"), "s.tar"))
        assert list(rows) == ["a/1", "../2"]
        first, second = rows.values()
        assert (first["cls"], first["width"], first["caption"]) == ("cat", 3, "a cat")
        assert second["txt"] == "größer"
        cells = [first["jpg"], first["file"], second["jpg"], second["seg.png"]]
        assert all(isinstance(cell, FileCell) for cell in cells)
        contents = [cell.source.read(cell.key) for cell in cells]
        assert contents == [b"first" * 200, b"first" * 200, b"second", b"third"]
        assert second["jpg"].name == "s.tar/../2.jpg"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert not (tmp_path / "2.JPG").exists() and not (tmp_path.parent / "2.JPG").exists()


def test_links_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = tar(tmp_path / "s.tar", {"1.jpg": b"first"})
    link = tarfile.TarInfo("2.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(shard, "a") as archive:
        archive.addfile(link)
    assert [sample.key for sample in read_shard(shard)] == ["1"]
    assert "1 links and other special members are not read" in caplog.text


@pytest.mark.parametrize("kept", [0, 100, 700, 1024, 1536, 2048 + 512, 5000])
def test_a_shard_that_ends_in_the_middle(tmp_path: Path, kept: int) -> None:
    shard = tar(tmp_path / "s.tar", MEMBERS)
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"s\.tar ends in the middle"):
        read_shard(shard)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the sample '1' twice, apart"):
        read_shard(tar(tmp_path / "apart.tar", {"1.jpg": b"a", "2.jpg": b"b", "1.cls": b"c"}))
    double = tar(tmp_path / "double.tar", {"1.jpg": b"a", "1.JPG": b"b"})
    with pytest.raises(ConfigError, match=r"has the member '1\.JPG' twice"):
        read_shard(double)
    with pytest.raises(ConfigError, match=r"latin\.tar: 1\.txt is not UTF-8"):
        read_shard(tar(tmp_path / "latin.tar", {"1.txt": "größer".encode("latin-1")}))
    broken = tar(tmp_path / "broken.tar", {"1.json": b"{"})
    with pytest.raises(ConfigError, match=r"broken\.tar: 1\.json is not JSON"):
        list(rows_of_shard(broken, read_shard(broken), "broken.tar"))
    with pytest.raises(ConfigError, match="is compressed"):
        read_shard(tar(tmp_path / "packed.tar", MEMBERS, "w:gz"))
    damaged = tar(tmp_path / "damaged.tar", MEMBERS)
    content = bytearray(damaged.read_bytes())
    content[2560 + 150] ^= 255
    damaged.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ends in the middle after a/1\.\w+, is damaged"):
        read_shard(damaged)
    shard = tar(tmp_path / "s.tar", {"1.jpg": b"a"})
    rows = dict(rows_of_shard(shard, read_shard(shard), "s.tar"))
    tar(shard, {"1.jpg": b"abc" * 8000})
    with pytest.raises(ValueError, match="the shard was changed"):
        rows["1"]["jpg"].source.read(rows["1"]["jpg"].key)


def test_written_shards_are_read(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 5000)
    for index in range(10):
        writer.add({"png": bytes([index]) * 1000, "cls": b"x"})
    writer.close()
    shards = sorted(tmp_path.glob("train-*.tar"))
    assert len(shards) == writer.shards == 5
    rows = [row for shard in shards for _, row in rows_of_shard(shard, read_shard(shard), shard.name)]
    assert [row["file"].source.read(row["file"].key)[0] for row in rows] == list(range(10))
