"""Splits over the life of a run: they are warned of when it starts, and stay what they were when it is old."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.inference.trained import evaluate_run, read_config
from hrt_mm.train.build import build_dataset
from hrt_mm.train.checkpoint import Checkpoint, CheckpointError
from hrt_mm.train.identity import check_same_run
from hrt_mm.train.loop import train
from hrt_mm.train.resolved import resolved_yaml

SMALL = """\
modality: {type: vision, channels: 1, patch: 4, size: 8}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification, monitor: macro_f1}
data: {type: image_folder, root: ROOT}
train: {steps: 1, batch_size: 8, eval_every: 1, test: false}
"""
YOUNGER = ("split_by", "split_seed", "group", "folds")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for label, count in (("cat", 40), ("dog", 40), ("Dog", 1)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (8, 8), 3 * index).save(tmp_path / f"data/{label}/{index}.png")
    (tmp_path / "small.yaml").write_text(SMALL.replace("ROOT", str(tmp_path / "data")))
    return tmp_path / "small.yaml"


def config(small: Path, *overrides: str) -> RunConfig:
    return load_config(small, [f"run.dir={small.parent / 'run'}", *overrides])


def old_run(small: Path) -> Path:
    """The folder of a run from before there were the keys of splits."""
    folder = small.parent / "run"
    folder.mkdir()
    written = yaml.safe_load(resolved_yaml(config(small)))
    for key in YOUNGER:
        del written["data"][key]
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    return folder


def test_an_old_run_keeps_its_splits(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = old_run(small)
    old, hashed = read_config(folder), config(small, "data.split_by=hash")
    assert old.data == hashed.data != config(small).data
    for split in ("train", "val", "test"):
        names = [[data.name(index) for index in range(len(data))] for data in
                 (build_dataset(item, split) for item in (old, hashed, config(small)))]  # fmt: skip
        assert names[0] == names[1] != names[2]
    assert read_config(folder, ["data.split_by=stratified"]).data == config(small).data
    assert main(["data", "show", str(folder)]) == 0
    assert "splits: by a hash of the names, data.split_seed 0" in capsys.readouterr().out


def test_a_new_run_keeps_its_splits_too(small: Path) -> None:
    folder = small.parent / "run"
    folder.mkdir()
    folded = config(small, "data.split_seed=3", "data.folds={of: 4, use: 1}", "data.group=/(.*)\\.png")
    (folder / "config.yaml").write_text(resolved_yaml(folded))
    assert read_config(folder) == folded


def test_an_old_run_is_not_resumed_with_other_splits(small: Path) -> None:
    saved = config(small).model_dump(mode="json")
    for key in YOUNGER:
        del saved["data"][key]
    checkpoint = Checkpoint(small.parent, {"config": saved})
    with pytest.raises(CheckpointError, match=r"data.split_by: saved with 'hash', now 'stratified'"):
        check_same_run(config(small), checkpoint)
    check_same_run(config(small, "data.split_by=hash"), checkpoint)
    with pytest.raises(CheckpointError, match=r"data.split_seed: saved with 0, now 1"):
        check_same_run(config(small, "data.split_by=hash", "data.split_seed=1"), checkpoint)


def test_a_run_warns_of_its_splits(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = small.parent / "data/cat/copy.png"
    copy.write_bytes((small.parent / "data/cat/0.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        train(config(small))
    text = "\n".join(caplog.messages)
    assert "data: 1 of 3 classes has no sample in val: Dog; the scores of val say nothing about them" in text
    assert "data: classes with names that look alike are different classes: 'Dog' and 'dog'" in text
    assert "val/macro_f1 is the mean over 2 of 3 classes: the split has no sample of Dog" in text


def test_validate_warns_of_splits(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "validate", str(small), f"run.dir={small.parent / 'run'}"]) == 0
    err = capsys.readouterr().err
    assert "warning: data: 1 of 3 classes has no sample in val: Dog" in err
    assert "is the mean over" not in err
    assert main(["config", "validate", str(small), f"run.dir={small.parent / 'run'}", "--no-data"]) == 0
    assert "data:" not in capsys.readouterr().err


def test_show_finds_equal_contents(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(small)]) == 0
    out = capsys.readouterr().out
    # Shades of cats and dogs are the same files.
    assert "contents are in more than one split: train " in out
    assert "splits: stratified by class, data.split_seed 0, 80% train, 10% val, 10% test" in out
    assert main(["data", "show", str(small), f"data.root={small.parent / 'gone'}"]) == 2
    assert "gone is not a folder" in capsys.readouterr().err


def test_an_evaluation_of_data_that_grew_is_warned_of(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(config(small))
    with caplog.at_level(logging.WARNING):
        evaluate_run(small.parent / "run", "val")
        assert "the data changed" not in caplog.text
        for index in range(40, 60):
            Image.new("L", (8, 8), 3 * index).save(small.parent / f"data/cat/{index}.png")
        evaluate_run(small.parent / "run", "val")
    assert "the data changed since the run was trained: val had 8 samples, now 10; samples may have" in caplog.text
    with caplog.at_level(logging.WARNING):
        train(config(small, "train.steps=2"), resume=True)
    assert "65 train, 8 val samples, now 81 train, 10 val; samples may have" in caplog.text


def test_a_run_folder_that_cannot_be_made_is_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"run.dir .*file/run cannot be written: Not a directory; choose another"):
        train(load_config(small, [f"run.dir={tmp_path / 'file' / 'run'}"]))
