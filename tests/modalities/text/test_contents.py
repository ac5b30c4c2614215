"""Files that are not plain text: read as the text that they hold, or refused by name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import logging
import lzma
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.plain_text import NotText
from hrt_modalities.text import TextModality
from hrt_modalities.text.contents import seekable_text, text_bytes
from hrt_modalities.text.corpus import Corpus, CorpusConfig
from hrt_modalities.text.documents import DocumentsConfig

TEXT = "Grüße, 世界!\nThe second line.\r\n\tA third \U0001f680 one. " * 40


def zstd(raw: bytes) -> bytes:
    arrow = pytest.importorskip("pyarrow", reason="zstd needs pyarrow or zstandard before Python 3.14")
    result: bytes = arrow.compress(raw, codec="zstd", asbytes=True)
    return result


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "a.txt.gz": gzip.compress,
    "a.txt.bz2": bz2.compress,
    "a.txt.xz": lzma.compress,
    "a.txt.zst": zstd,
    "gzip by another name.txt": gzip.compress,
    "two members.gz": lambda raw: gzip.compress(raw[:100]) + gzip.compress(raw[100:]),
    "utf-16-le": lambda raw: codecs.BOM_UTF16_LE + raw.decode().encode("utf-16-le"),
    "utf-16-be": lambda raw: codecs.BOM_UTF16_BE + raw.decode().encode("utf-16-be"),
    "utf-32": lambda raw: raw.decode().encode("utf-32"),
    "utf-8 with a mark": lambda raw: codecs.BOM_UTF8 + raw,
    "utf-16 in gzip": lambda raw: gzip.compress(raw.decode().encode("utf-16")),
    "plain": bytes,
}


def corpus(*files: Path, split: str = "train", **item: Any) -> Corpus:
    return CorpusConfig(type="corpus", files=files, **({"val": None, "test": None} | item)).build(split)


def whole(found: Corpus) -> list[bytes]:
    return [found.source.read(document, 0, size) for document, size in enumerate(found.source.sizes.tolist())]


@pytest.mark.parametrize("name", PACKED)
def test_text_in_other_forms_is_read_as_text(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(PACKED[name](TEXT.encode()))
    assert text_bytes(file) == TEXT.encode() == TextModality.read(file)
    result = corpus(file, context=100)
    assert whole(result) == [TEXT.encode()]
    assert result.source.names == [file.as_posix()] and result.source.keys == [name]
    assert result.source.read(0, 30, 60) == TEXT.encode()[30:60]
    assert whole(pickle.loads(pickle.dumps(result))) == [TEXT.encode()]
    raw = corpus(file, raw_bytes=True)
    assert whole(raw) == [file.read_bytes()]


@pytest.mark.parametrize("name", PACKED)
def test_lines_of_json_in_other_forms_are_read(name: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"{word} é"}) + "\n" for word in ("one", "two", "three"))
    suffix = "".join(Path(name).suffixes[-1:]) if name.startswith("a.") else ""
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(PACKED[name](lines.encode()))
    expected = [f"{word} é".encode() for word in ("one", "two", "three")]
    assert whole(corpus(file)) == expected
    assert whole(corpus(tmp_path)) == expected, "a folder of them"
    assert len(whole(pickle.loads(pickle.dumps(corpus(file))))) == 3


def test_a_folder_that_mixes_lines_with_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"body": "x"}\n'))
    (tmp_path / "b.txt").write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"data.files mix .*a.jsonl.gz with other kinds, such as .*b.txt; .*suffixes"):
        corpus(tmp_path)
    assert whole(corpus(tmp_path, suffixes=(".txt",))) == [b"text"]
    (tmp_path / "b.txt").unlink()
    assert whole(corpus(tmp_path, text_key="body")) == [b"x"]


def saved(image: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 200, 3)).save(out, image)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "text")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("a.txt")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"text"))
    return out.getvalue()


def parquet() -> bytes:
    arrow = pytest.importorskip("pyarrow", reason="writes a Parquet table")
    tables = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    tables.write_table(arrow.table({"text": ["a", "b"]}), out)
    return out.getvalue()


def noise(count: int) -> bytes:
    draw = random.Random(0)
    return bytes(draw.randrange(1, 256) for _ in range(count))


NO_TEXT: dict[str, tuple[Callable[[], bytes], str]] = {
    "parquet": (parquet, "is a Parquet table; read it by data.type hugging_face"),
    "zip": (zipped, "is a zip archive"),
    "tar": (tarred, "is a tar archive; unpack it"),
    "tar.gz": (lambda: gzip.compress(tarred()), "is compressed by gzip, and what is in it is a tar archive"),
    "gz.gz": (
        lambda: gzip.compress(gzip.compress(b"text")),
        "compressed by gzip, and what is in it is compressed too",
    ),
    "zip.gz": (lambda: gzip.compress(zipped()), "compressed by gzip, and what is in it is a zip archive"),
    "cut gz": (lambda: gzip.compress(noise(90_000))[:-200], "compressed by gzip, and .*(damaged or cut off|no UTF-8)"),
    "cut text gz": (lambda: gzip.compress(TEXT.encode())[:-9], "is compressed by gzip, and damaged or cut off"),
    "wrong sum": (lambda: gzip.compress(TEXT.encode())[:-8] + bytes(8), "is compressed by gzip, and damaged"),
    "wrong xz": (lambda: lzma.compress(TEXT.encode())[:60] + b"x" * 60, "is compressed by xz, and damaged"),
    "wrong bz2": (lambda: bz2.compress(TEXT.encode())[:40], "is compressed by bzip2, and damaged"),
    "wrong zst": (lambda: zstd(TEXT.encode())[:40], "is compressed by zstd, and damaged"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "is a PDF; extract its text"),
    "png": (lambda: saved("PNG"), "is a picture"),
    "jpg": (lambda: saved("JPEG"), "is a picture"),
    "gif": (lambda: saved("GIF"), "is a picture"),
    "bmp": (lambda: saved("BMP"), "has NUL bytes"),
    "wav": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "is sound or video"),
    "mp4": (lambda: b"\0\0\0\x20ftypisom", "is video, sound or a picture"),
    "docx of old": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old office document"),
    "sqlite": (lambda: b"SQLite format 3\0", "is an SQLite database"),
    "pickle": (lambda: pickle.dumps({"a": list(range(99))}), "has NUL bytes|control characters"),
    "noise": (lambda: noise(3000), "has control characters and bytes that are no UTF-8"),
    "utf-16 without a mark": (
        lambda: TEXT.encode("utf-16-le"),
        "is UTF-16 without a byte order mark; save it as UTF-8",
    ),
    "cut utf-16": (lambda: TEXT.encode("utf-16")[:-1], "is not utf-16.*, as its mark says"),
    "NUL bytes": (lambda: b"a\0b", "has NUL bytes, as no text has"),
    "NUL bytes in the middle": (lambda: b"a" * 20_000 + bytes(10) + b"a" * 20_000, "has NUL bytes"),
    "NUL bytes at the end": (lambda: b"a" * 20_000 + bytes(10), "has NUL bytes"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_refused_by_name_and_left_out_of_folders(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = NO_TEXT[name]
    file = tmp_path / "a.txt"
    file.write_bytes(make())
    with pytest.raises(ConfigError, match=rf"data.files .*a.txt .*{reason}.* data.raw_bytes: true"):
        corpus(file)
    with pytest.raises(ConfigError, match=rf"no file is text \(1 of them\); .*a.txt, which .*{reason}"):
        corpus(tmp_path)
    with pytest.raises(NotText, match=reason):
        text_bytes(file)
    assert whole(corpus(file, raw_bytes=True)) == [file.read_bytes()]
    (tmp_path / "b.txt").write_bytes(b"text")
    with caplog.at_level(logging.WARNING):
        assert whole(corpus(tmp_path)) == [b"text"]
    (message,) = caplog.messages
    assert message.startswith(f"data.files: 1 file is no text and left out; {file}, which ")


def test_other_encodings_stay_bytes_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße aus München. ".encode("latin-1") * 20)
    (tmp_path / "b.txt").write_bytes("Grüße aus München. ".encode() * 20_000)
    with caplog.at_level(logging.WARNING):
        assert whole(corpus(tmp_path)) == [(tmp_path / name).read_bytes() for name in ("a.txt", "b.txt")]
    (message,) = caplog.messages
    assert message.startswith("data.files: 1 file is not UTF-8; the bytes stay as they are, and subwords take them for")
    assert message.endswith("a.txt")


def test_lines_of_json_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(ConfigError, match=r"a.jsonl.gz is compressed by gzip, and damaged or cut off"):
        corpus(file)
    file.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": \n'))
    with pytest.raises(ConfigError, match=r"a.jsonl.gz:2 is no JSON"):
        corpus(file)


def test_documents_in_other_forms_are_read_and_others_are_bad_samples(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt.gz", gzip.compress(TEXT.encode())),
        ("b.txt", TEXT.encode("utf-16")),
        ("c.png", saved("PNG")),
        ("d.txt", b"caf\xe9"),
    ):
        (tmp_path / "train" / "k").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "k" / name).write_bytes(content)
    result = DocumentsConfig(type="documents", root=tmp_path, val=1e-9).build("train")
    by_name = {item.name.split("/")[-1]: index for index, item in enumerate(result.items)}
    for name in ("a.txt.gz", "b.txt"):
        assert result[by_name[name]].value == TEXT.encode()
    assert result.shape(by_name["a.txt.gz"]) == (len(TEXT.encode()), 0)
    assert result[by_name["d.txt"]].value == b"caf\xe9"
    with pytest.raises(BadSample, match=r"c.png: is a picture \(PNG\); .* data.raw_bytes: true"):
        result[by_name["c.png"]]
    raw = DocumentsConfig(type="documents", root=tmp_path, val=1e-9, raw_bytes=True).build("train")
    assert raw[by_name["c.png"]].value == saved("PNG")


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="raw_bytes has no effect without files"):
        CorpusConfig(type="corpus", raw_bytes=True)
    with pytest.raises(ValueError, match="raw_bytes has no effect"):
        CorpusConfig(type="corpus", files=(Path("a.jsonl.gz"),), raw_bytes=True)
    with pytest.raises(ValueError, match="raw_bytes has no effect on texts in a table"):
        DocumentsConfig(type="documents", file=Path("a.csv"), raw_bytes=True)


def test_a_file_is_unpacked_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one"))
    first = seekable_text(file)
    assert seekable_text(file) == first
    file.write_bytes(gzip.compress(b"another"))
    assert seekable_text(file) != first
    assert whole(corpus(file)) == [b"another"]


def test_copies_go_when_the_process_ends(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one"))
    code = (
        "import os, sys; from pathlib import Path; from hrt_modalities.text.contents import seekable_text\n"
        "copy = seekable_text(Path(sys.argv[1])).path; print(copy)\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); assert copy.read_bytes() == b'one'"
    )
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.gz")],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert Path(run.stdout.strip()).is_relative_to(tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())


def test_a_text_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one"))
    monkeypatch.setattr("hrt_modalities.text.contents._ROOM", 1 << 80)
    with pytest.raises(ConfigError, match=r"a.gz has no room for its unpacked text in .*; set TMPDIR"):
        corpus(file)
    monkeypatch.undo()
    assert whole(corpus(file)) == [b"one"]


@settings(max_examples=80)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1),
    st.sampled_from(sorted(PACKED)),
)
def test_any_text_is_read_in_any_form(tmp_path: Path, text: str, name: str) -> None:
    file = tmp_path / "any"
    file.write_bytes(PACKED[name](text.encode()))
    assert text_bytes(file) == text.encode()


BEGINNINGS = (
    "ORCHESTRA",
    "BZhang",
    "RIFF-RAFF and WAVE",
    "ID3 tags",
    "GIF8 is",
    "PK",
    "PAR1 is",
    "Rar!",
    "MZ",
    "%PDF",
    "Obj",
)


@pytest.mark.parametrize("text", BEGINNINGS)
def test_texts_that_begin_as_other_files_do_are_texts(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert text_bytes(tmp_path / "a.txt") == text.encode()
    assert whole(corpus(tmp_path)) == [text.encode()]


def test_lines_of_json_by_their_other_ending_are_lines(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "b.NDJSON.gz").write_bytes(gzip.compress(b'{"text": "three"}\n'))
    assert whole(corpus(tmp_path)) == [b"one", b"two", b"three"]
