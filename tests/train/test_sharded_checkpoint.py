"""Checkpoints in shards: resumed on other numbers of ranks and in other forms, and refused where they are damaged."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.cli.main import main
from hrt_mm.core.errors import UserError
from hrt_mm.train.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.loop import train
from hrt_mm.train.saved_tensors import SavedTensors
from hrt_mm.train.store import CheckpointStore
from tests.processes import on_ranks
from tests.train.test_sharding import HSDP, train_here
from tests.train.toy_hierarchies import rows_config
from tests.train.toy_processes import logged

SAVED: dict[str, Any] = {"steps": 4, "save_every": 2, "keep_last": 9, "ema": 0.9, "save_async": True}
BATCHES: dict[str, dict[str, Any]] = {"samples": {"batch_size": 7}, "tokens": {"batch_tokens": 40}}


def _losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in logged(folder) if "train/loss" in line]


def _save(ranks: ProcessGroup, folder: Path) -> list[str]:
    for name, batches in BATCHES.items():
        train_here(ranks, folder / name, {**SAVED, **batches, "parallel": "fsdp2"})
    # A disk that is full for the second rank alone.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if ranks.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    errors = []
    try:
        train_here(ranks, folder / "full", {**SAVED, "parallel": "fsdp2"})
    except UserError as error:
        errors.append(str(error))
    return errors


def _resume(ranks: ProcessGroup, folder: Path) -> None:
    for name, batches in BATCHES.items():
        train_here(ranks, folder / name, {**SAVED, **batches, **HSDP}, resume=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_two_ranks_save_and_one_and_four_resume(tmp_path: Path) -> None:
    errors = on_ranks(2, _save, tmp_path)
    for failed in errors:
        (message,) = failed
        assert "the last checkpoint, of step 4, could not be written" in message
    assert not [*(tmp_path / "full" / "checkpoints").iterdir()]
    for name in BATCHES:
        checkpoint = CheckpointStore(tmp_path / name).read(2)
        assert checkpoint.shards == 2
        for copied in ("one", "four"):
            shutil.copytree(tmp_path / name, tmp_path / copied / name)
            shutil.rmtree(CheckpointStore(tmp_path / copied / name).path(4))
        train(rows_config(tmp_path / "one" / name, **{**SAVED, **BATCHES[name], "save_async": False}), resume=True)
    on_ranks(4, _resume, tmp_path / "four")
    for name in BATCHES:
        expected = _losses(tmp_path / name)
        assert len(expected) == 4
        for copied in ("one", "four"):
            assert _losses(tmp_path / copied / name) == pytest.approx(expected, rel=1e-4), (name, copied)
        shards = [CheckpointStore(tmp_path / copied / name).read(4).shards for copied in ("one", "four")]
        assert shards == [0, 2]
    _check_readable_by_torch(CheckpointStore(tmp_path / "samples").path(2))


def _check_readable_by_torch(folder: Path) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    expected = read_checkpoint(folder).tensors("model")
    loaded = {name: torch.zeros_like(value) for name, value in expected.items()}
    load(loaded, storage_reader=HuggingFaceStorageReader(str(folder / "model")), no_dist=True)
    for name, value in expected.items():
        assert torch.equal(loaded[name], value), name


def _tensors() -> dict[str, torch.Tensor]:
    return {"odd": torch.arange(10.0).view(5, 2), "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4)}


def test_shards_are_read_by_rows(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step-00000001", {"step": 1}, {"model": _tensors()}, shards=3)
    checkpoint = read_checkpoint(tmp_path / "step-00000001")
    assert checkpoint.shards == 3
    saved = checkpoint.saved("model")
    for name, value in _tensors().items():
        assert torch.equal(saved[name], value)
    for first in range(6):
        for count in range(6 - first):
            assert torch.equal(saved.rows("odd", first, count), _tensors()["odd"][first : first + count])


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    def written(name: str) -> Path:
        folder = tmp_path / name / "step-00000001"
        folder.parent.mkdir()
        write_checkpoint(folder, {"step": 1}, {"model": _tensors()}, shards=3)
        return folder

    shard = "model/shard-00002-of-00003.safetensors"
    folder = written("missing")
    (folder / shard).unlink()
    with pytest.raises(CheckpointError, match=f"{shard} is missing"):
        read_checkpoint(folder)
    folder = written("short")
    (folder / shard).write_bytes((folder / shard).read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=f"{shard} is cut short"):
        read_checkpoint(folder)
    folder = written("unnamed")
    state = json.loads((folder / "state.json").read_text())
    del state["files"][shard], state["checksum"]
    (folder / "state.json").write_text(json.dumps(state | {"schema": 1}))
    with pytest.raises(CheckpointError, match=f"and not {shard}"):
        read_checkpoint(folder)
    state["files"] = {"../elsewhere/shard-00001-of-00001.safetensors": {"bytes": 1, "sha256": ""}}
    (folder / "state.json").write_text(json.dumps(state | {"schema": 1}))
    with pytest.raises(CheckpointError, match="names a file"):
        read_checkpoint(folder)
    folder = written("gap")
    with pytest.raises(UserError, match="files are missing"):
        SavedTensors([folder / f"model/shard-0000{index}-of-00003.safetensors" for index in (1, 3)], "restore it")


def test_checkpoints_are_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    folder = CheckpointStore(run).path(1)
    folder.parent.mkdir(parents=True)
    write_checkpoint(folder, {"step": 1, "samples": 7}, {"model": _tensors(), "ema": _tensors()})
    before = read_checkpoint(folder)
    for arguments, shards in (
        (["--to", "sharded", "--shards", "3"], 3),
        (["--to", "sharded"], 2),
        (["--to", "single"], 0),
    ):
        assert main(["checkpoint", "convert", str(run if shards else folder), *arguments]) == 0
        assert str(folder) in capsys.readouterr().out
        checkpoint = read_checkpoint(folder)
        assert checkpoint.shards == shards
        assert checkpoint.state["samples"] == 7
        for part in ("model", "ema"):
            assert all(torch.equal(checkpoint.tensors(part)[name], value) for name, value in _tensors().items())
    assert checkpoint.state["files"] == before.state["files"]
    assert main(["checkpoint", "convert", str(run), "--to", "single"]) == 0
    assert "single already" in capsys.readouterr().out
    for arguments, problem in (
        ([str(tmp_path), "--to", "single"], "is no run folder with checkpoints"),
        ([str(run), "--to", "single", "--shards", "2"], "--shards 2: give 1 or more with --to sharded"),
    ):
        assert main(["checkpoint", "convert", *arguments]) == 2
        assert problem in capsys.readouterr().err
