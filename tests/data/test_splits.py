from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from hrt_mm.data.duplicates import Limits, same_content
from hrt_mm.data.splits import Member, Splits, look_alikes, split_warnings


def splits(**labels: Iterable[str]) -> Splits:
    members = {
        split: [Member(f"{split}{index}", name) for index, name in enumerate(item)] for split, item in labels.items()
    }
    return Splits(members, "by hand")


def test_nothing_to_say_of_whole_splits() -> None:
    assert split_warnings(splits(train="aabb", val="ab", test="ab")) == []


def test_missing_classes_are_named() -> None:
    result = split_warnings(splits(train="abc", val="abd", test="c"))
    assert result == [
        "1 of 4 classes has no sample in train: d; they cannot be learned, and a run refuses them",
        "1 of 4 classes has no sample in val: c; the scores of val say nothing about them",
        "3 of 4 classes have no sample in test: a, b, d; the scores of test say nothing about them",
    ]
    (many,) = split_warnings(splits(train="abcdefgh", test="h"))
    assert many.startswith("7 of 8 classes have no sample in test: a, b, c, d, e and 2 more;")


def test_shares_that_could_not_be_kept() -> None:
    members = {split: [Member(str(index)) for index in range(count)] for split, count in (("train", 10), ("test", 10))}
    (result,) = split_warnings(Splits(members, "", {"test": 0.1}))
    assert result.startswith("test has 50% of the samples in place of 10%")


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("cat", "cat ", "'cat' and 'cat '"),
        ("cat", "Cat", "'Cat' and 'cat'"),
        ("caf\u00e9", "cafe\u0301", "'cafe\\u0301' and 'caf\u00e9'"),
        ("cat", "c\u200bat", "'cat' and 'c\\u200bat'"),
        ("cat", "\ufeffcat", "'cat' and '\\ufeffcat'"),
        ("two words", "two\u00a0 words", "'two words' and 'two\\xa0 words'"),
        ("stra\u00dfe", "STRASSE", "'STRASSE' and 'stra\u00dfe'"),
        ("\uff43\uff41\uff54", "cat", "'cat' and"),
        ("a\u00ad-b", "a-b", "'a-b' and"),
        ("", " ", "'' and ' '"),
    ],
)
def test_labels_that_look_alike(first: str, second: str, shown: str) -> None:
    (result,) = look_alikes([first, second, "dog"])
    assert shown in result


def test_labels_that_stand_for_missing_values() -> None:
    members = [Member(str(index), label) for index, label in enumerate(("NaN", "nano", "null", "null", "no"))]
    assert (
        "classes that programs write for a missing value: 'NaN' (1), 'null' (2)"
        in split_warnings(Splits({"train": members}, "by hand"))[0]
    )


def test_labels_that_differ() -> None:
    assert look_alikes(["cat", "cats", "a", "A", "1", "01", "é", "e", "cat_1", "cat 1"]) == []


def test_files_and_groups_on_two_sides(tmp_path: Path) -> None:
    own = {
        "train": [Member("a", group="anna", file=str(tmp_path / "a")), Member("b", group="ben")],
        "test": [Member("a@1s", group="anna", file=str(tmp_path / "a"))],
    }
    file, group = split_warnings(Splits(own, ""))
    assert file == f"1 file is in more than one split: {tmp_path / 'a'} (train, test)"
    assert group == "1 group is in more than one split: anna (train, test)"


def test_equal_texts() -> None:
    own = {"train": [Member("t:1", content=b"x"), Member("t:2", content=b"x")], "val": [Member("t:3", content=b"x")]}
    assert split_warnings(Splits(own, "")) == ["1 content is in more than one split: train t:1, val t:3"]


def test_equal_files(tmp_path: Path) -> None:
    contents = {"a": b"x" * 50_000, "b": b"x" * 50_000, "c": b"x" * 49_999 + b"y", "d": b"", "e": b"", "f": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    path = {name: str(tmp_path / name) for name in contents}
    files = {"train": [path["a"], path["d"], path["f"]], "test": [path["c"], path["b"], path["e"], path["f"]]}
    assert same_content(files) == [(("train", path["a"]), ("test", path["b"]))]
    members = {split: [Member(Path(one).name, file=one) for one in item] for split, item in files.items()}
    assert "1 content is in more than one split: train a, test b" in split_warnings(Splits(members, "", root=tmp_path))


def test_equal_files_on_one_side_are_no_matter(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"same" if name != "c" else b"else")
    assert same_content({"train": [f"{tmp_path}/a", f"{tmp_path}/b"], "test": [f"{tmp_path}/c"]}) == []


def test_files_are_read_within_limits_and_within_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for path in (tmp_path / "outside", root / "a", root / "b"):
        path.write_bytes(b"same")
    (root / "link").symlink_to(tmp_path / "outside")
    assert same_content({"train": [f"{root}/a"], "test": [f"{root}/link"]}, root) == []
    assert same_content({"train": [f"{root}/a"], "test": [f"{root}/link"]}) != []
    inside = {"train": [f"{root}/a"], "test": [f"{root}/b"]}
    assert len(same_content(inside, root, Limits(files=2, bytes=8))) == 1
    assert same_content(inside, root, Limits(files=1)) == same_content(inside, root, Limits(bytes=7)) == []


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = {"train": [f"{tmp_path}/pipe", f"{tmp_path}/gone"], "test": [str(tmp_path), f"{tmp_path}/nul\0"]}
    assert same_content(files) == []
