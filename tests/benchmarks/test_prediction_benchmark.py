"""The benchmark of predictions: its table, and what it must not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import prediction
from benchmarks.results import Measured, Result, Row, environment
from hrt_mm.inference.prediction_rows import Journal


def test_the_table_has_every_figure() -> None:
    contenders = {
        "training": Measured(seconds=4.0, scores={"files/s": 32.0}),
        "predict": Measured(seconds=2.0, scores={"files/s": 64.0}),
    }
    row = Row(sizes={"files": 128, "side": 256, "rounds": 3}, contenders=contenders, ratios={"predict/training": 2.0})
    facts = environment(torch.device("cpu"))
    result = Result(name="prediction", command="x", quick=False, settings={}, checks={}, rows=[row], **facts)
    text = prediction.tables(result)
    assert "2.0 times as many files per second as training" in text and "| predict | 2.00 s | 64.0 |" in text


def test_a_job_is_ended_after_some_batches_and_others_are_not(tmp_path: Path) -> None:
    add = Journal.add
    journal = Journal(tmp_path, {})
    with prediction.ending(2):
        for number in range(2):
            journal.add([{"sample": str(number)}], [])
        with pytest.raises(prediction._Ended):
            journal.add([{"sample": "2"}], [])
    assert Journal.add is add
    assert [rows[0]["sample"] for rows, _ in journal.entries()] == ["0", "1"]
    journal.close()


def test_pictures_lie_in_splits_and_classes(tmp_path: Path) -> None:
    prediction.pictures(tmp_path, 4, 48)
    files = sorted(tmp_path.rglob("*.jpg"))
    with Image.open(files[0]) as image:
        assert len(files) == 8 and image.size == (64, 48)
    assert {path.parent.parent.name for path in files} == {"train", "test"}
