from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.tables import Paths, path_of, rows_of

HEADER = b"path,label,split\n"


def rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(number, dict(row)) for number, row in rows_of(path, "data.file")]


def read(folder: Path, content: bytes, name: str = "a.csv") -> list[tuple[int, dict[str, Any]]]:
    (folder / name).write_bytes(content)
    return rows(folder / name)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".GZ": gzip.compress,
}  # fmt: skip


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_packed_tables_and_byte_order_marks(tmp_path: Path, kind: str, packing: str, encoding: str) -> None:
    text = {
        "csv": "path,label\r\ncafé.png,ü\r\n",
        "tsv": "path\tlabel\ncafé.png\tü\n",
        "jsonl": '{"path": "café.png", "label": "ü"}\n',
    }[kind]
    result = read(tmp_path, PACKED[packing](text.encode(encoding)), f"a.b.{kind}{packing}")
    assert result == [(1 if kind == "jsonl" else 2, {"path": "café.png", "label": "ü"})]


@pytest.mark.parametrize("size", [140_000, 3_000_000])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_cells_of_any_length(tmp_path: Path, kind: str, size: int) -> None:
    cell = "x" * size
    text = json.dumps({"text": cell}) if kind == "jsonl" else f"text\n{cell}\n"
    assert read(tmp_path, text.encode(), f"a.{kind}")[0][1] == {"text": cell}


def test_a_row_is_named_by_the_line_that_it_starts_on(tmp_path: Path) -> None:
    content = b'\npath,label\n\n"a\nb",1\r\nc,"2\n\n"\n\nd,3'
    assert read(tmp_path, content) == [
        (4, {"path": "a\nb", "label": "1"}),
        (6, {"path": "c", "label": "2\n\n"}),
        (10, {"path": "d", "label": "3"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.tsv", b"\n\n\n", "a.tsv is empty; the first line must name the columns"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n \n", "a.jsonl is empty"),
        ("a.csv", HEADER + b"1,a,train\n2,b,caf\xe9,\n", r"a.csv:3 is not UTF-8: byte 0xe9 after '2,b,caf'"),
        ("a.csv", HEADER + b'1,"x\ny",train\n\n2,b,\xff\n', r"a.csv:5 is not UTF-8: byte 0xff"),
        ("a.csv", b"path,caf\xe9\n", "a.csv:1 is not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": "\xe9"}\n', "a.jsonl:3 is not UTF-8"),
        ("a.csv", b"path,label,path\n", r"a.csv:1 has the column 'path' twice \(columns 1, 3\); rename"),
        ("a.jsonl", b'{"a": 1, "b": 2, "a": 3}\n', "a.jsonl:1 is not JSON: the key 'a' is there twice"),
        ("a.csv", b",,\n1,2,3\n", "a.csv:1 names no columns"),
        ("a.csv", HEADER + b'1,a,train\n2,"b,train\n3,c,train\n', "a.csv:3 cannot be read: .*quote that opens there"),
        ("a.csv", HEADER + b"1,a,b,train\n", "a.csv:2 has more columns than the header: 4, not 3; .*quotes"),
        ("a.jsonl", b'{"a": 1}\n' + b"[" * 200_000 + b"\n", "a.jsonl:2 is JSON nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "a.jsonl:1 is JSON nested too deeply"),
        ("a.jsonl", b"null\n", "a.jsonl:1 must be an object, got NoneType"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}\n", "a.jsonl:1 is not JSON"),
        ("a.csv", "path,label\n1,a\n".encode("utf-16-le"), "a.csv:1 has a null byte: it is no text, or UTF-16"),
        ("a.csv", "path,ü\n1,a\n".encode("utf-16") + b"\x00", "a.csv: from line 3 on it is not utf-16"),
        ("a.csv", gzip.compress(HEADER, mtime=0), "a.csv is no text but gzip: let its name end in .gz"),
        ("a.csv", b"PK\x03\x04....", "a zip archive, as of a spreadsheet: save it as CSV"),
        ("a.csv", b"PAR1....", "Parquet: let its name end in .parquet"),
        ("a.csv.gz", b"path\n1\n", "a.csv.gz is damaged, or not compressed as its suffix says|cannot be read"),
        ("a.csv.gz", gzip.compress(HEADER * 999, mtime=0)[:-20], "a.csv.gz is damaged, or not compressed"),
        ("a.csv.xz", lzma.compress(HEADER * 999)[:-20], "a.csv.xz is damaged, or not compressed"),
        ("a.csv.zst", b"x", "must end in .csv, .tsv, .jsonl, .*Zstandard is not read"),
        ("a.txt", b"path\n", "data.file .*a.txt must end in .csv, .tsv, .jsonl"),
        ("a.gz", b"path\n", "must end in .csv, .tsv, .jsonl"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, content, name)


def test_parquet_is_read_and_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"path": ["a.png", "b.png"], "year": [1999, None]}), path)
    assert list(rows_of(path, "data.file")) == [
        (1, {"path": "a.png", "year": 1999}),
        (2, {"path": "b.png", "year": None}),
    ]
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:40], b"path\n1\n", b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.parquet cannot be read as Parquet: .*create it again"):
            list(rows_of(path, "data.file"))
    parquet.write_table(arrow.table({"path": arrow.array([], arrow.string())}), path)
    with pytest.raises(ConfigError, match=r"a\.parquet is empty"):
        list(rows_of(path, "data.file"))


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, b",path,label,\n0,a,b,\n") == [(2, {"path": "a", "label": "b"})]


def test_a_pipe_or_a_folder_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    for name, message in (("a.csv", "is a FIFO"), ("b.csv", "is a folder"), ("c.csv", "no such file")):
        with pytest.raises(ConfigError, match=message):
            rows(tmp_path / name)
    (tmp_path / "Birds.csv").write_text("path\n1\n")
    with pytest.raises(ConfigError, match=r"birds.csv: no such file; 'Birds.csv' is there: upper and lower case"):
        rows(tmp_path / "birds.csv")
    with pytest.raises(ConfigError, match=r"data.root .*nowhere is not a folder"):
        Paths(tmp_path / "a.csv", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("root", "given", "result"),
    [
        ("", "a/1.png", "a/1.png"),
        ("", "./a//1.png", "a/1.png"),
        ("", "a/../b/1.png", "b/1.png"),
        ("", "{root}/a/1.png", "a/1.png"),
        ("", "../1.png", None),
        ("", "a/../../1.png", None),
        ("", "/etc/passwd", None),
        ("", "{root}/../secret.png", None),
        ("", "{root}x/1.png", None),
        ("", "//etc/passwd", None),
        ("", ".", None),
        ("sub", "1.png", "1.png"),
        ("sub", "{root}/sub/1.png", "1.png"),
        ("sub", "{root}/1.png", None),
        ("sub", "../1.png", None),
        ("link", "{root}/link/1.png", "1.png"),
        ("link", "{root}/sub/1.png", "1.png"),
    ],
)
def test_paths_stay_inside_a_root_that_is_trusted(tmp_path: Path, root: str, given: str, result: str | None) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    given = given.replace("{root}", str(tmp_path))
    paths = Paths(tmp_path / "a.csv", tmp_path / root if root else None)
    if result is not None:
        assert paths.of({"path": given}, "path", "a.csv:2") == result
        return
    with pytest.raises(ConfigError, match=r"a.csv:2: path .* leads out of|must be the path of a file"):
        paths.of({"path": given}, "path", "a.csv:2")


def test_a_relative_root_takes_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for root in (Path("set"), Path(".")):
        inside = tmp_path / root / "x" / "1.png"
        assert Paths(Path("a.csv"), root).of({"path": str(inside)}, "path", "a.csv:2") == "x/1.png"
    assert path_of({"path": str(tmp_path / "1.png")}, "path", f"{tmp_path}/a.csv:2") == "1.png"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": None}, "the value of 'path' is null"),
        ({"path": ""}, "the value of 'path' is empty"),
        ({"label": "x"}, "the value of 'path' is missing, as the row has label"),
        ({"path": float("nan")}, "the value of 'path' is NaN"),
        ({"path": 7}, "path must be a path, got 7"),
        ({"path": "a\0b"}, "path must be a path"),
    ],
)
def test_a_missing_path_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        path_of(row, "path", "a.csv:2")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"), min_size=1).filter(str.strip)
COLUMNS = st.lists(NAMES, min_size=1, max_size=4, unique=True)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"))


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[Any]) -> list[dict[str, Any]]:
    columns = draw(COLUMNS)
    return [
        dict(zip(columns, item, strict=True))
        for item in draw(st.lists(st.tuples(*[cells] * len(columns)), min_size=1, max_size=4))
    ]


@settings(max_examples=60)
@given(tables(CELLS), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_csv_comes_back_as_it_was_written(
    table: list[dict[str, str]], end: str, everything: bool, encoding: str
) -> None:
    if end == "\n" and not everything:
        # Python before 3.13 writes a lone carriage return without quotes.
        table = [{column: cell.replace("\r", "") for column, cell in row.items()} for row in table]
    out = io.StringIO(newline="")
    quoting: Any = csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(out, list(table[0]), lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(table)
    if out.getvalue().startswith("\ufeff"):
        return  # a mark that belongs to no text
    with tempfile.TemporaryDirectory() as folder:
        assert [row for _, row in read(Path(folder), out.getvalue().encode(encoding))] == table


@settings(max_examples=100)
@given(tables(PLAIN))
def test_tsv_comes_back_as_it_was_written(table: list[dict[str, str]]) -> None:
    lines = ["\t".join(table[0]), *("\t".join(row.values()) for row in table)]
    text = "\n".join(lines) + "\n"
    expected = [row for row in table if len(row) > 1 or next(iter(row.values()))]  # an empty line is no row
    if text.startswith("\ufeff"):
        return
    with tempfile.TemporaryDirectory() as folder:
        assert [row for _, row in read(Path(folder), text.encode(), "a.tsv")] == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=4))
def test_jsonl_comes_back_as_it_was_written(table: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in table)
    with tempfile.TemporaryDirectory() as folder:
        assert [row for _, row in read(Path(folder), text.encode(), "a.jsonl")] == table


PIECES = st.lists(
    st.sampled_from(
        [b"path,label\n", b"a,b\n", b'"', b",", b"\t", b"\r", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"{",
         b"}", b'{"path": 1}\n', b"[", b"]", b":", b"NaN", b"\\ud800", b"\xe2\x80\xa8", b"1e999", b"\x1f\x8b"]
    ) | st.binary(max_size=20),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=200)
@given(PIECES, st.sampled_from(["csv", "tsv", "jsonl"]), st.sampled_from(["", ".gz", ".bz2", ".xz"]), st.booleans())
def test_any_bytes_are_rows_or_an_error_that_can_be_printed(
    content: bytes, kind: str, packing: str, packed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = read(Path(folder), PACKED[packing](content) if packed else content, f"a.{kind}{packing}")
        except ConfigError as error:
            str(error).encode()
        else:
            assert all(number > 0 and isinstance(row, dict) for number, row in result)
