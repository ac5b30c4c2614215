from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import equal_time
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.config import load_config

TEST_IMAGES = 200


def write_digits(root: Path) -> None:
    """Files in MNIST's layout: an image has a bright square whose place tells its class, and noise."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 400), ("t10k", TEST_IMAGES)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 64, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 2 + 14 * (label // 5), 1 + 5 * (label % 5)
            image[row : row + 8, column : column + 5] = 255
        # IDX: two zero bytes, the type (8 for uint8), the number of axes, their sizes, the values.
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (raw / f"{prefix}-{name}-ubyte").write_bytes(header + values.tobytes())


def test_a_quick_run_trains_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path)
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "2", "--json", str(path)]
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, argv) == 0
    row = read(path).rows[0]
    assert set(row.contenders) == {"hierarchy", "flat"}
    steps = {}
    for name, measured in row.contenders.items():
        accuracy, errors = measured.scores["test/accuracy"], measured.scores["test/errors"]
        assert accuracy is not None and errors == round((1 - accuracy) * TEST_IMAGES)
        steps[name] = measured.scores["steps"] or 0
        batch_size = load_config(equal_time.CONTENDERS[name]).train.batch_size
        assert batch_size is not None and measured.scores["samples"] == steps[name] * batch_size
    assert min(steps.values()) > 0
    assert row.ratios["hierarchy/flat steps"] == steps["hierarchy"] / steps["flat"]


def test_it_needs_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    assert main(equal_time.arguments(), equal_time.run, equal_time.tables, ["--quick", "--device", "cpu"]) == 1
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err
