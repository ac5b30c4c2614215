"""The splits and the linear model of the benchmark of sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sentences import Texts, linear, texts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sentences"
    folder.mkdir()
    folds = [{"text": f"text\u2028{n}", "label": n % 2, "split": None, "fold": n % 10} for n in range(100)]
    given = [{"text": f"text {n}", "label": n % 2, "split": ("train", "dev", "test")[n % 3]} for n in range(30)]
    for name, rows in (("mpqa", folds), ("sst2", given)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_folds_test_a_tenth_and_validate_on_a_twentieth_of_the_rest(root: Path) -> None:
    first, second = texts("mpqa", root, 0), texts("mpqa", root, 1)
    counts = {split: len(first.split(split)[0]) for split in ("train", "val", "test")}
    assert counts == {"train": 85, "val": 5, "test": 10}
    assert not set(first.split("test")[0]) & set(second.split("test")[0])
    assert len({text for text, *_ in first.rows}) == 100


def test_given_splits_stay(root: Path) -> None:
    data = texts("sst2", root)
    assert [len(data.split(split)[0]) for split in ("train", "val", "test")] == [10, 10, 10]


def test_the_linear_model_learns_what_words_tell() -> None:
    rows = [
        (f"{word} film number {n}", label, split)
        for label, word in (("good", "fine"), ("bad", "dull"))
        for n, split in enumerate(["train"] * 4 + ["val", "test"])
    ]
    measured = linear(Texts(rows))
    assert measured.scores["accuracy"] == 1 and measured.seconds is not None


def test_the_table_is_read_back(root: Path, tmp_path: Path) -> None:
    texts("sst2", root).write(tmp_path / "table.jsonl")
    row = json.loads((tmp_path / "table.jsonl").read_text().splitlines()[0])
    assert row == {"text": "text 0", "label": "0", "split": "train"}


def test_fewer_tests_are_spread_evenly_over_sorted_classes() -> None:
    rows = [(f"text {n}", "good" if n < 10 else "bad", "test") for n in range(20)] + [("text", "good", "train")]
    fewer = Texts(rows).with_fewer_tests(4)
    assert fewer.split("test") == (["text 0", "text 5", "text 10", "text 15"], ["good", "good", "bad", "bad"])
    assert fewer.split("train") == (["text"], ["good"])
    assert len(Texts(rows).with_fewer_tests(100).rows) == len(rows)
