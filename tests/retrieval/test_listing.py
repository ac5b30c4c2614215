from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.errors import UserError
from hrt_mm.retrieval.listing import Listed, files_in, listed, listed_in


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.mp4", "notes.txt", "deep/er/c.mp4", "x[1].mp4", "x1.mp4"):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "films"


@pytest.mark.parametrize(
    ("given", "found"),
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
def test_files_folders_and_patterns(films: Path, given: list[str], found: list[str] | None) -> None:
    paths = [films / name for name in given]
    if found is None:
        with pytest.raises(UserError, match=r"nothing matches .*\?\.txt; \* stands for a part of a name"):
            files_in(paths)
    else:
        assert files_in(paths) == [films / name for name in found]


def test_what_is_not_there_is_told(films: Path) -> None:
    with pytest.raises(UserError, match=r"d\.mp4 is not there"):
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
    assert [own.name for own in both] == [str(films / "b.mp4"), "first", "second"], "a file is embedded once"


def test_a_table_may_have_a_column_of_its_own_for_the_file(films: Path) -> None:
    (films / "a.csv").write_text("path,file\na.mp4,reel 7\n")
    assert listed_in([films / "a.csv"]) == [Listed(films / "a.mp4", str(films / "a.mp4"), {"file": "reel 7"})]


@pytest.mark.parametrize(
    ("name", "text", "said"),
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
def test_tables_that_cannot_be_used(films: Path, name: str, text: str, said: str) -> None:
    (films.parent / "secret.mp4").touch()
    (films / "link.mp4").symlink_to(films.parent / "secret.mp4")
    (films / name).write_text(text)
    with pytest.raises(UserError, match=said):
        listed_in([films / name])


def test_a_table_that_is_not_there(films: Path) -> None:
    with pytest.raises(UserError, match=r"--manifest .*gone\.csv: no such file"):
        listed_in([films / "gone.csv"])
