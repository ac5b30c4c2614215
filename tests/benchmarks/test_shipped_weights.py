"""The benchmark of weights that packages ship: what is trained and tested on, and its table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from benchmarks.results import Measured, Result, Row
from benchmarks.shipped_weights import WAYS, random_vectors, sentences, speakers, tables
from hrt_modalities.text import word_vectors


def test_speakers_are_tested_on_digits_that_training_did_not_have(tmp_path: Path) -> None:
    rows = [
        f"wav/{digit}_{name}_{take}.wav\t{digit}\t{name}\t{'test' if take < 2 else 'train'}"
        for name in ("ann", "bob")
        for digit in range(10)
        for take in range(5)
    ]
    (tmp_path / "index.tsv").write_text("\n".join(["path\tdigit\tspeaker\tsplit", *rows]))
    speakers(tmp_path, 3, tmp_path / "some.tsv", 0)
    with (tmp_path / "some.tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    counts = {(row["speaker"], row["split"]): 0 for row in table}
    for row in table:
        counts[row["speaker"], row["split"]] += 1
        digit, _, take = Path(row["path"]).stem.split("_")
        assert (int(digit) >= 5, int(take) < 2) == (row["split"] == "test",) * 2
    of_each = {"train": 3, "val": 1, "test": 10}
    assert counts == {(name, split): count for name in ("ann", "bob") for split, count in of_each.items()}


def test_texts_to_train_on_are_drawn(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": n % 2, "split": ("train", "test")[n % 3 == 0]} for n in range(90)]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sentences(tmp_path / "set.jsonl", 20, tmp_path / "some.jsonl", 0)
    drawn = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [row["split"] for row in drawn] == ["val"] * 2 + ["train"] * 18 + ["test"] * 30
    assert all((int(row["text"]) % 3 == 0) == (row["split"] == "test") for row in drawn)


def test_random_vectors_replace_those_of_the_package() -> None:
    shipped = (object(), torch.zeros(5, 2))
    original, word_vectors.load = word_vectors.load, lambda: shipped  # type: ignore[assignment]
    try:
        with random_vectors(0):
            library, vectors_VE = word_vectors.load()
            assert library is shipped[0] and vectors_VE.shape == (5, 2) and vectors_VE.any()
        assert word_vectors.load() == shipped
    finally:
        word_vectors.load = original


def test_the_table_has_all_contenders() -> None:
    contenders = {way: Measured(seconds=9, scores={"test/accuracy": 0.5 + n / 10}) for n, way in enumerate(WAYS)}
    row = Row(sizes={"task": "trec", "trained on": "all", "runs": 1}, contenders=contenders, ratios={})
    result = Result(
        name="shipped_weights", command="", device="", quick=False, versions={}, threads=1,
        settings={"minutes": 0.15}, checks={}, rows=[row],
    )  # fmt: skip
    assert "after 9 processor seconds" in tables(result)
    assert "| TREC, 6 kinds of questions | questions: all | 1 | 50.0% | 60.0% | 70.0% |" in tables(result)
