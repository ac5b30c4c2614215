from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from hrt_mm.train.checkpoint import CheckpointError
from hrt_mm.train.store import CheckpointStore


def saved(store: CheckpointStore, step: int, value: float | None = None) -> None:
    metrics = {} if value is None else {"val/accuracy": value}
    store.save({"step": step, "metrics": metrics}, {"model": {"w": torch.full((4,), float(step))}})


def opened(folder: Path, keep_last: int = 2, mode: str = "max") -> CheckpointStore:
    return CheckpointStore(folder, keep_last=keep_last, monitor="val/accuracy", mode=mode)


def cut(store: CheckpointStore, step: int) -> None:
    path = store.path(step) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for step, value in [(1, 0.1), (2, 0.8), (3, 0.3), (4, None), (5, 0.2)]:
        saved(store, step, value)
    assert store.steps() == [2, 4, 5]
    assert store.best() == (2, 0.8)
    assert store.read("best").step == 2
    assert store.read("latest").step == 5
    assert store.read(4).step == 4
    saved(store, 6, 0.9)
    assert store.steps() == [5, 6]


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 4)])
def test_the_best_is_the_latest_of_equals_and_never_nan(tmp_path: Path, mode: str, best: int) -> None:
    store = opened(tmp_path, keep_last=9, mode=mode)
    for step, value in enumerate([0.5, 0.5, 0.7, 0.4, math.nan], 1):
        saved(store, step, value)
    assert store.best() is not None
    assert store.best()[0] == best  # type: ignore[index]
    assert not store.improves(math.nan)
    assert store.improves(0.7 if mode == "max" else 0.4)
    assert not store.improves(0.6)


def test_without_a_metric_the_newest_serves_as_best(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.newest() is None
    assert store.improves(0.0)
    with pytest.raises(CheckpointError, match="holds no checkpoint; the run was stopped before its first"):
        store.read()
    saved(store, 3)
    saved(store, 4)
    assert store.read("best").step == 4
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 9; there are \[3, 4\]"):
        store.read(9)


def test_a_run_goes_on_from_the_newest_that_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        saved(store, step)
    size = (store.path(3) / "model.safetensors").stat().st_size
    cut(store, 3)
    (store.path(2) / "state.json").write_text("{")
    result = store.newest()
    assert result is not None
    assert result.step == 1
    assert f"expected {size} bytes, found {size - 3}" in caplog.text
    assert "; the run goes on from the good checkpoint" in caplog.text
    assert "step-00000001" in caplog.text
    assert store.steps() == [1]
    assert sorted(path.name for path in store.folder.glob("*.broken")) == [
        "step-00000002.broken", "step-00000003.broken",
    ]  # fmt: skip


def test_where_all_are_damaged_nothing_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved(store, 1)
    cut(store, 1)
    with pytest.raises(CheckpointError, match=r"no good checkpoint is left(?s:.*)model.safetensors is cut short"):
        store.newest()


def test_reading_a_damaged_one_names_one_that_is_good(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved(store, 1, 0.9)
    saved(store, 2, 0.1)
    cut(store, 1)
    with pytest.raises(CheckpointError, match=r"cut short: expected \d+ bytes, found \d+; .*step-00000002 is good"):
        store.read("best")
    cut(store, 2)
    with pytest.raises(CheckpointError, match="no other checkpoint is good"):
        store.read("best")


def test_the_best_is_not_guessed_where_a_metric_cannot_be_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved(store, 1, 0.1)
    saved(store, 2, 0.9)
    (store.path(2) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002 .*step-00000001 is good. It may be the best one"):
        store.read("best")
    assert store.read(1).step == 1
    shutil.rmtree(store.path(2))
    assert store.read("best").step == 1


def test_a_checkpoint_that_was_copied_over_another_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved(store, 1, 0.1)
    saved(store, 2, 0.9)
    shutil.rmtree(store.path(2))
    shutil.copytree(store.path(1), store.path(2))
    for which in ("best", "latest", 2):
        with pytest.raises(CheckpointError, match=r"step-00000002/state.json is of step 1: another checkpoint"):
            store.read(which)
    result = store.newest()
    assert result is not None and result.step == 1


@pytest.mark.parametrize("name", ["state.json", "model.safetensors"])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, name: str) -> None:
    store = opened(tmp_path)
    saved(store, 1)
    path = store.path(1) / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{name} is a FIFO, not a file"):
        store.read("latest")
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=f"{name} is a folder, not a file"):
        store.read("latest")
