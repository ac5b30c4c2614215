from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.data.listing import Listed, files_in, listed, listed_in


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.mp4", "notes.txt", "deep/er/c.mp4", "x[1].mp4", "x1.mp4"):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "films"


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (["b.mp4", "a.mp4"], ["b.mp4", "a.mp4"]),
        (["deep", "a.mp4", "deep/er"], ["deep/er/c.mp4", "a.mp4"]),
        (["[ab].mp4"], ["a.mp4", "b.mp4"]),
        (["**/*.mp4"], ["a.mp4", "b.mp4", "deep/er/c.mp4", "x1.mp4", "x[1].mp4"]),
        (["d*"], ["deep/er/c.mp4"]),
        (["x[1].mp4"], ["x[1].mp4"]),
        (["?.txt", "notes.*"], None),
    ],
    ids=["files", "folders", "pattern", "folders in folders", "a folder matches", "a name like a pattern", "no match"],
)
def test_files_folders_and_patterns(films: Path, given: list[str], result: list[str] | None) -> None:
    paths = [films / name for name in given]
    if result is None:
        with pytest.raises(UserError, match=r"nothing matches .*\?\.txt; \* stands for a part of a name"):
            files_in(paths)
    else:
        assert files_in(paths) == [films / name for name in result]


def test_files_of_other_suffixes_and_hidden_ones_are_left_out(films: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (".DS_Store", "._a.mp4", "deep/Thumbs.db", "deep/er/a.MP4", "__MACOSX/b.mp4", "deep/labels.txt"):
        (films / name).parent.mkdir(exist_ok=True)
        (films / name).touch()
    os.mkfifo(films / "pipe.mp4")
    (films / "up").symlink_to(".")
    (films / "out.mp4").symlink_to(films.parent / "secret.mp4")
    (films.parent / "secret.mp4").touch()
    everything = ["a.mp4", "b.mp4", "deep/er/a.MP4", "deep/er/c.mp4", "x1.mp4", "x[1].mp4"]
    with caplog.at_level(logging.WARNING):
        assert files_in([films], {".mp4"}) == [films / name for name in everything]
    assert caplog.text.count("left out 2 files of .txt, which are not read; the first is notes.txt") == 1
    assert "out.mp4 (a link that leads out" in caplog.text and "pipe.mp4 (a FIFO)" in caplog.text
    assert ".DS_Store" not in caplog.text and "Thumbs" not in caplog.text
    assert files_in([films], None, {".mp4"}) == [films / "deep/labels.txt", films / "notes.txt"]
    assert files_in([films / "notes.txt"], {".mp4"}) == [films / "notes.txt"], "a file that is named is tried"
    assert files_in([films / "*.txt"], {".mp4"}) == [films / "notes.txt"], "a suffix that is asked for is tried"
    caplog.clear()
    assert files_in([films / "**" / "*"], {".mp4"}) == [films / name for name in everything]
    assert files_in([films / "**"], {".mp4"}) == [films / name for name in everything]
    assert files_in([films / "de*" / "**" / "?.mp4"]) == [films / "deep/er/c.mp4"]
    assert caplog.text.count("left out 2 files of .txt, which are not read") == 2
    (films / "above").symlink_to("..")
    assert {path.parent for path in files_in([films / "*"], {".mp4"})} == {films, films / "deep" / "er"}
    assert "above: a link that leads out of its folder" in caplog.text
    with pytest.raises(UserError, match=r"there are no files in .*; files to read end in .wav"):
        listed([films], suffixes={".wav"})


def test_a_root_of_the_paths_of_tables(films: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "a.csv"
    table.write_text(f"path\n{films}/a.mp4\ndeep/er/c.mp4\n")
    paths = [films / "a.mp4", films / "deep/er/c.mp4"]
    assert [item.path for item in listed([], [table], root=films)] == paths
    with pytest.raises(UserError, match=r"a.csv:2: path .* leads out of the folder of the table.* Set --root"):
        listed_in([table])
    with pytest.raises(UserError, match=r"leads out of --root"):
        listed_in([table], films / "deep")


def test_names_that_are_not_utf8_and_lone_surrogates(films: Path) -> None:
    raw = os.fsencode(films) + b"/caf\xe9.mp4"
    open(raw, "wb").close()
    (own,) = (own for own in listed([films], suffixes={".mp4"}) if "caf" in own.name)
    assert own.path.is_file() and own.name.endswith("caf\\xe9.mp4") and own.info == {"file": own.name}
    (films / "a.jsonl").write_text('{"path": "a\\ud800.mp4", "id": "x\\ud800", "title": "\\udfff"}\n')
    (own,) = listed_in([films / "a.jsonl"])
    assert own.name == "x\\ud800" and own.info["title"] == "\\udfff"
    own.info["file"].encode()


def test_what_is_not_there_is_told(films: Path) -> None:
    with pytest.raises(UserError, match=r"d\.mp4 does not exist"):
        files_in([films / "d.mp4"])
    (films / "empty").mkdir()
    (films / "none.csv").write_text("path,title\n")
    with pytest.raises(UserError, match=r"there are no files in .*empty, .*none\.csv"):
        listed([films / "empty"], [films / "none.csv"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'path,id,title,year\na.mp4,first,"A, b",1999\ndeep/er/c.mp4,second,,\n'),
        ("a.tsv", "path\tid\ttitle\tyear\na.mp4\tfirst\tA, b\t1999\ndeep/er/c.mp4\tsecond\t\t\n"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "id": "first", "title": "A, b", "year": 1999}\n\n'
            '{"path": "deep/er/c.mp4", "id": "second", "title": null}\n',
        ),
    ],
)
def test_tables_name_files_with_what_is_known_of_them(films: Path, name: str, text: str) -> None:
    (films / name).write_text(text)
    first, second = films / "a.mp4", films / "deep/er/c.mp4"
    assert listed_in([films / name]) == [
        Listed(first, "first", {"title": "A, b", "year": "1999", "file": str(first)}),
        Listed(second, "second", {"file": str(second)}),
    ]
    both = listed([films / "a.mp4", films / "b.mp4"], [films / name])
    assert [item.name for item in both] == [str(films / "b.mp4"), "first", "second"], "a file is embedded once"


def test_a_table_may_have_a_column_of_its_own_for_the_file(films: Path) -> None:
    (films / "a.csv").write_text("path,file\na.mp4,reel 7\n")
    assert listed_in([films / "a.csv"]) == [Listed(films / "a.mp4", str(films / "a.mp4"), {"file": "reel 7"})]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,title\na.mp4,x\n", r"a\.csv:2 has no column 'path'; its columns are file, title"),
        ("a.csv", "path,id\na.mp4,x\nb.mp4,x\n", r"a\.csv:3 has the id 'x' of .*a\.csv:2; give each row its own"),
        ("a.csv", "path\na.mp4\na.mp4\n", r"a\.csv:3 has the id '.*a\.mp4' of"),
        ("a.csv", "path,id\na.mp4,\n", r"a\.csv:2 has an empty id"),
        ("a.jsonl", '{"path": "../secret.mp4"}\n', r"a\.jsonl:1: path '../secret\.mp4' leads out of the folder"),
        ("a.jsonl", '{"path": "/etc/passwd"}\n', "leads out of the folder"),
        ("a.jsonl", '{"path": "link.mp4"}\n', r"a\.jsonl:1: .*link\.mp4 is a link that leads out of"),
        ("a.jsonl", '{"path": 7}\n', "path must be a path, got 7"),
        ("a.jsonl", "{broken\n", r"a\.jsonl:1 is not JSON"),
        ("a.yaml", "path: a.mp4\n", r"--manifest .*a\.yaml must end in \.csv, \.tsv, \.jsonl"),
    ],
)
def test_tables_that_cannot_be_used(films: Path, name: str, text: str, message: str) -> None:
    (films.parent / "secret.mp4").touch()
    (films / "link.mp4").symlink_to(films.parent / "secret.mp4")
    (films / name).write_text(text)
    with pytest.raises(UserError, match=message):
        listed_in([films / name])


def test_a_table_that_is_not_there(films: Path) -> None:
    with pytest.raises(UserError, match=r"--manifest .*gone\.csv: no such file"):
        listed_in([films / "gone.csv"])
