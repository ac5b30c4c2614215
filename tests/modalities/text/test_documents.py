from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.text import ByteTokenizer, Text
from hrt_modalities.text.documents import Documents, DocumentsConfig, Tagged, TagsConfig


def folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"text of {name}".encode())
    return root


def table(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        mark = "," if file.suffix == ".csv" else "\t"
        file.write_text("\n".join([mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]))
    return file


def documents(split: str = "train", **values: Any) -> Documents:
    return DocumentsConfig.model_validate({"type": "documents"} | values).build(split)


def tags(file: Path, split: str = "train", **values: Any) -> Tagged:
    return TagsConfig.model_validate({"type": "tags", "file": file} | values).build(split)


ROWS = [
    {"text": f"text {index}", "label": "ab"[index % 2], "split": split}
    for index, split in enumerate(["train"] * 6 + ["validation"] * 2 + ["test"] * 2)
]


def test_a_folder_with_splits_and_one_without(tmp_path: Path) -> None:
    names = [f"{split}/{label}/deep/{n}.txt" for split in SPLITS for label in "ab" for n in range(2)]
    root = folder(tmp_path / "a", [*names, "train/a/.hidden", "train/a/notes.md"])
    result = documents(root=root, suffixes=(".txt",))
    assert result.classes == ("a", "b") and len(result) == 4
    assert (
        result[3].label == "b"
        and result[3].name == "train/b/deep/1.txt"
        and result[3].value == b"text of " + names[3].encode()
    )
    assert [len(documents(split, root=root, suffixes=(".txt",))) for split in SPLITS] == [4, 4, 4]
    flat = folder(tmp_path / "b", [f"{label}/{index}.txt" for label in "abc" for index in range(100)])
    parts = [documents(split, root=flat, val=0.2, test=0.2) for split in SPLITS]
    assert sum(map(len, parts)) == 300 and min(map(len, parts)) > 30
    assert all(part.classes == ("a", "b", "c") for part in parts)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_all_tables_give_the_same(kind: str, tmp_path: Path) -> None:
    file = table(tmp_path / f"t.{kind}", ROWS)
    assert [len(documents(split, file=file)) for split in SPLITS] == [6, 2, 2]
    sample = documents("test", file=file)[1]
    assert (sample.value.content, sample.label) == ("text 9", "b")
    assert sample.name == f"t.{kind}:{10 if kind == 'jsonl' else 11}"


def test_paths_in_a_table(tmp_path: Path) -> None:
    folder(tmp_path, ["x/1.txt", "x/2.txt"])
    rows = [{"file": f"x/{index}.txt", "label": "k", "split": "train"} for index in (1, 2, 3)]
    result = documents(file=table(tmp_path / "t.csv", rows), path_column="file", val=0.01)
    assert result[0].value == b"text of x/1.txt" and result.shape(1) == (15, 0)
    for read in (result.__getitem__, result.shape):
        with pytest.raises(BadSample, match=r"x/3.txt: cannot be read: No such file"):
            read(2)
    rows[0]["file"] = "../secret"
    with pytest.raises(ConfigError, match=r"t.csv:2: path '../secret' leads out of the folder"):
        documents(file=table(tmp_path / "t.csv", rows), path_column="file")


def test_pairs(tmp_path: Path) -> None:
    rows = [{"a": f"one {index}", "b": f"zwei ü{index}", "label": index % 2, "split": "train"} for index in range(20)]
    result = documents(file=table(tmp_path / "t.jsonl", rows), text_column=("a", "b"), val=0.1)
    first, second = result[0].value
    assert isinstance(first, Text) and isinstance(first.content, str) and first.content.startswith("one")
    assert isinstance(second, Text) and isinstance(second.content, str) and second.content.startswith("zwei")
    assert result.classes == ("0", "1")
    assert result.shape(0)[0] == len(first.content) + len(second.content) + 1


def test_splits_by_hash_follow_the_text_alone(tmp_path: Path) -> None:
    rows = [{"text": f"{index % 150}", "label": "k"} for index in range(300)]
    file = table(tmp_path / "t.jsonl", rows)
    splits = {split: {item.texts for item in documents(split, file=file, split_column=None).items} for split in SPLITS}
    assert sum(map(len, splits.values())) == 150, "the same text is on one side"
    random.shuffle(rows)
    again = table(tmp_path / "other.jsonl", rows)
    for split in SPLITS:
        assert {item.texts for item in documents(split, file=again, split_column=None).items} == splits[split]


def test_bad_documents_are_named_and_odd_ones_kept(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", ["k/empty", "k/raw", "k/large", "k/link"])
    (root / "k/empty").write_bytes(b"")
    (root / "k/raw").write_bytes(b"\xff\x00\xfe")
    (root / "k/large").write_bytes(b"word " * 2_000_000)
    (tmp_path / "secret").write_text("secret")
    (root / "k/link").unlink()
    (root / "k/link").symlink_to(tmp_path / "secret")
    dataset = documents(root=root, val=0.01, test=0.01)
    positions = {item.name: position for position, item in enumerate(dataset.items)}
    assert set(positions) == {"k/empty", "k/raw", "k/large", "k/link"}
    with pytest.raises(BadSample, match="k/empty: is empty"):
        dataset[positions["k/empty"]]
    with pytest.raises(BadSample, match="k/link: a link leads out of"):
        dataset[positions["k/link"]]
    with pytest.raises(BadSample, match=r"k/raw: has NUL bytes, as no text has; bytes .* data.raw_bytes: true"):
        dataset[positions["k/raw"]]
    raw = documents(root=root, val=0.01, test=0.01, raw_bytes=True)[positions["k/raw"]].value
    assert ByteTokenizer()([raw]).x.tolist() == [255, 0, 254]
    assert dataset.shape(positions["k/large"]) == (10_000_000, 0)
    assert len(ByteTokenizer()([dataset[positions["k/large"]].value]).x) == 10_000_000
    rows = [{"text": "", "label": "k", "split": "train"}]
    with pytest.raises(BadSample, match=r"t.jsonl:1: is empty"):
        Documents(tmp_path, documents(file=table(tmp_path / "t.jsonl", rows * 30), val=0.01).items[:1], None)[0]


def test_mistakes_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    flat = folder(tmp_path / "flat", ["1.txt"])
    mixed = folder(tmp_path / "mixed", ["train/a/1.txt", "other/a/1.txt"])
    strange = folder(tmp_path / "strange", ["train/a/1.txt", "val/a/2.txt", "test/b/1.txt"])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"root": tmp_path / "nowhere"}, "nowhere is not a folder"),
        ({"root": empty}, r"empty has no folders in it; expected SPLIT/CLASS/\* or CLASS/\*"),
        ({"root": flat, "suffixes": (".md",)}, r"flat has no folders in it, .*expected .* files ending in .md"),
        ({"root": flat}, r"flat has no folders in it, but 1 file of .txt \(1.txt\); expected .*CLASS/\*"),
        ({"root": mixed}, "mixed has train/ and also other"),
        ({"root": strange}, "test of data.root .*strange has classes that train has not: b; .*a sample of every class"),
        ({"file": tmp_path / "t.txt"}, "must end in .csv, .tsv, .jsonl"),
        ({"file": tmp_path / "t.csv"}, "t.csv: no such file"),
    ]
    for values, message in cases:
        with pytest.raises(ConfigError, match=message):
            documents(**values)
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        documents("dev", root=strange)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "give one of root and file"),
        ({"root": flat, "file": flat}, "give one of root and file"),
        ({"root": flat, "label_column": "x"}, "label_column has no effect with root"),
        ({"file": flat, "suffixes": (".x",)}, "suffixes has no effect with file"),
        ({"file": flat, "path_column": "x", "text_column": "y"}, "text_column has no effect with path_column"),
        ({"root": flat, "val": 0.5, "test": 0.5}, "leave nothing to train on"),
    ]
    for values, message in wrong:
        with pytest.raises(ValueError, match=message):
            DocumentsConfig.model_validate({"type": "documents"} | values)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"t.jsonl:2 is not JSON"),
        ("[1]", r"t.jsonl:2 must be an object, got list"),
        ('{"body": "x"}', r"t.jsonl:2: the value of 'text' is missing, as the row has body"),
        ('{"text": 3, "label": "k", "split": "train"}', r"t.jsonl:2: text must be a text, got int"),
        ('{"text": "x", "label": [], "split": "train"}', r"t.jsonl:2: label must be a name or a whole number"),
        ('{"text": "x", "label": "k", "split": "x"}', r"t.jsonl:2: split must be train, val or test, got 'x'"),
    ],
)
def test_broken_rows_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "fine", "label": "k", "split": "train"}\n' + line)
    with pytest.raises(ConfigError, match=message):
        documents(file=tmp_path / "t.jsonl")


def test_a_label_a_word(tmp_path: Path) -> None:
    rows = [
        {"words": ["Größe", "zählt", "."], "tags": ["N", "V", "P"], "split": "train"},
        {"words": ["ja"], "tags": ["N"], "split": "test"},
        {"words": [], "tags": [], "split": "train"},
    ]
    file = table(tmp_path / "t.jsonl", rows)
    result = tags(file)
    assert result.classes == ("N", "P", "V")
    sample = result[0]
    assert (sample.value.content, sample.label) == ("Größe zählt .", ["N", "V", "P"])
    assert sample.value.boundaries == {"words": (0, 6, 12)} and result.shape(0) == (16, 0)
    assert tags(file, unit="sentences", separator="")[0].value.boundaries == {"sentences": (0, 5, 10)}
    tokenizer = ByteTokenizer().with_boundaries({"words"})
    starts = tokenizer([sample.value]).boundaries["words"]
    assert starts.nonzero().flatten().tolist() == [0, 8, 15]
    with pytest.raises(BadSample, match=r"t.jsonl:3: is empty"):
        result[1]
    with pytest.raises(ConfigError, match="no texts for split 'val'; it has train: 2, test: 1"):
        tags(file, "val")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": ["a"], "tags": []}, "has 1 words and 0 tags; they must be as many"),
        ({"words": "a", "tags": ["N"]}, "words must be a list of strings, got 'a'"),
        ({"words": ["a", ""], "tags": ["N", "N"]}, "no word empty"),
        ({"words": ["a"], "tags": ["X"]}, "test of .* has labels that train has not: X"),
    ],
)
def test_broken_tags_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = [{"words": ["a"], "tags": ["N"], "split": "train"}, row | {"split": "test"}]
    with pytest.raises(ConfigError, match=message):
        tags(table(tmp_path / "t.jsonl", rows), "test")
