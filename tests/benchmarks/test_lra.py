"""The budgets of Long Range Arena, its data, and the tables."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from benchmarks.lra import ALLOWED, BUDGETS, MAX_BYTES, bars, configuration, mean, reviews, tables, unpacked
from benchmarks.results import Measured, Result, Row
from benchmarks.runs import flat
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.initial_weights import weights_replaced
from hrt_mm.train.build import build_task, build_tokenizers

CLASSES = {"listops": 10, "text": 2, "image": 10, "pathfinder": 2}


@pytest.mark.parametrize("task", BUDGETS)
def test_models_and_controls_are_within_the_budget(task: str) -> None:
    config = load_config(f"lra/{task}")
    classes = tuple(f"class {index}" for index in range(CLASSES[task]))
    counts = []
    for contender in (config, flat(config)):
        with torch.device("meta"), weights_replaced():
            module = build_task(contender, build_tokenizers(contender), classes)
        counts.append(sum(parameter.numel() for parameter in module.parameters()))
    assert max(counts) <= ALLOWED * BUDGETS[task]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_reviews_are_cut_and_some_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "imdb"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"text": "ä" * 3000 if n == 1 else f"{split} {n}", "label": "pos"} for n in range(20)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    reviews(folder, tmp_path / "table.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows].count("val") == 2 and len(rows) == 40
    assert max(len(row["text"].encode()) for row in rows) == MAX_BYTES
    reviews(folder, tmp_path / "fewer.jsonl", test=5)
    fewer = [json.loads(line) for line in (tmp_path / "fewer.jsonl").read_text().splitlines()]
    assert [row["text"] for row in fewer if row["split"] == "test"] == [f"test {n}" for n in (0, 4, 8, 12, 16)]
    assert [row for row in fewer if row["split"] != "test"] == [row for row in rows if row["split"] != "test"]


def test_shards_are_unpacked_with_the_last_for_validation(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "test-000000"):
        (tmp_path / f"{name}.tar.gz").write_bytes(gzip.compress(name.encode()))
    unpacked(tmp_path, tmp_path / "out")
    contents = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert contents == {
        "train-000000.tar": "train-000000",
        "val-000001.tar": "train-000001",
        "test-000000.tar": "test-000000",
    }


def test_real_data_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        configuration("text", tmp_path)
    data = configuration("pathfinder", tmp_path, 50, 7).data.model_dump()
    assert (data["train"], data["val"], data["test"]) == (50, 7, 7)


def rows(*accuracies: float) -> list[Row]:
    return [
        Row(
            sizes={"task": task},
            contenders={
                name: Measured(
                    seconds=0.1,
                    bytes=1 << 20,
                    scores={"accuracy": value, "least": value, "most": value, "parameters": 10.0, "steps": 5.0},
                )
                for name, value in (("hierarchy", accuracy), ("flat", 0.5))
            },
            ratios={},
        )
        for task, accuracy in zip(BUDGETS, accuracies, strict=False)
    ]


def test_the_mean_is_over_four_tasks_or_absent() -> None:
    full = rows(0.4, 0.8, 0.5, 0.9)
    assert mean(full, "hierarchy") == pytest.approx(0.65) and mean(full[:3], "hierarchy") is None
    assert [bar.met for bar in bars(full)] == [False, True, False, True, True]
    assert [bar.met for bar in bars(full[:1])] == [False]


def test_missing_tasks_are_shown_as_such() -> None:
    result = Result(
        name="lra",
        command="python -m benchmarks.lra",
        device="CPU",
        quick=False,
        versions={},
        threads=1,
        settings={"minutes": 3, "seeds": 1},
        checks={},
        rows=rows(0.4, 0.8),
    )
    text = tables(result)
    assert "| hierarchy | 40.0 | 80.0 | - | - | - |" in text
    assert "| Transformer, published | 36.4 | 64.3 | 42.4 | 71.4 | 53.6 |" in text
