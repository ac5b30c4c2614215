from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.train import checkpoint as module
from hrt_mm.train import files
from hrt_mm.train.checkpoint import CheckpointError, read_checkpoint, tidy, write_checkpoint

TENSORS = {"model": {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}, "optimizer": {"m/w": torch.ones(2)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    write_checkpoint(folder, {"step": 7, "metrics": {"a": 0.1}}, TENSORS)
    return folder


def change_state(folder: Path, **values: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | values))


def test_what_is_written_is_read_back(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert found.step == 7
    assert found.state["metrics"] == {"a": 0.1}
    assert torch.equal(found.tensors("model")["w"], TENSORS["model"]["w"])
    assert found.tensors("model")["n"].dtype == torch.int64
    assert "ema" not in found
    with pytest.raises(CheckpointError, match=r"holds no ema; it has model.safetensors, optimizer.safetensors"):
        found.tensors("ema")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_file_cut_short_is_named_with_both_sizes(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    message = rf"optimizer.safetensors is cut short: expected {len(data)} bytes, found {len(data) - 5}"
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_a_changed_byte_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged: its \d+ bytes are not those"):
        read_checkpoint(folder)


def test_missing_and_damaged_files_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        read_checkpoint(folder)
    (folder / "state.json").write_text('{"schema": 1, "st')
    with pytest.raises(CheckpointError, match=r"state.json is cut short or damaged"):
        read_checkpoint(folder)
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state.json cannot be read: No such file"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 99}, "has schema 99, this version reads 1"),
        ({"step": None}, "names no step"),
        ({"files": {"../../etc/passwd": {}}}, r"names a file '../../etc/passwd'"),
    ],
)
def test_states_that_cannot_be_trusted_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change_state(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_a_checkpoint_of_the_same_step_is_replaced(folder: Path) -> None:
    write_checkpoint(folder, {"step": 7, "metrics": {"a": 0.9}}, TENSORS)
    assert read_checkpoint(folder).state["metrics"] == {"a": 0.9}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files.write_flushed

    def full(path: Path, data: bytes) -> None:
        if path.name == "optimizer.safetensors":
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(module, "write_flushed", full)
    for name in ("step-00000008", folder.name):
        with pytest.raises(OSError, match="No space left"):
            write_checkpoint(folder.parent / name, {"step": 8}, TENSORS)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read_checkpoint(folder).step == 7


def test_tidying_up_after_a_kill(folder: Path) -> None:
    half = folder.parent / ".step-00000009.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    # Killed between the two renames: the old one stands aside, the new one is not there yet.
    folder.rename(folder.parent / f".{folder.name}.old")
    tidy(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read_checkpoint(folder).step == 7
    # Killed after both: the old one may go.
    write_checkpoint(folder.parent / f".{folder.name}.old", {"step": 7}, {})
    tidy(folder.parent)
    assert read_checkpoint(folder).state["metrics"] == {"a": 0.1}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
