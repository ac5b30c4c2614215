from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.data import atomic_files as files
from hrt_mm.data.storage import Sum
from hrt_mm.train import checkpoint as module
from hrt_mm.train.checkpoint import STATE, CheckpointError, read_checkpoint, read_state, tidy, write_checkpoint
from hrt_mm.train.state import TrainState
from tests.damage import try_all

TENSORS = {"model": {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}, "optimizer": {"m/w": torch.ones(2)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    write_checkpoint(folder, {"step": 7, "metrics": {"a": 0.1}}, TENSORS)
    return folder


def change_state(folder: Path, **values: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    del state["checksum"]
    (folder / "state.json").write_bytes(STATE.encode(state | values))


def test_what_is_written_is_read_back(folder: Path) -> None:
    result = read_checkpoint(folder)
    assert result.step == 7
    assert result.state["metrics"] == {"a": 0.1}
    assert torch.equal(result.tensors("model")["w"], TENSORS["model"]["w"])
    assert result.tensors("model")["n"].dtype == torch.int64
    assert "ema" not in result
    with pytest.raises(CheckpointError, match=r"holds no ema; it has model.safetensors, optimizer.safetensors"):
        result.tensors("ema")
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
    with pytest.raises(CheckpointError, match=r"state.json is damaged: Unterminated string"):
        read_checkpoint(folder)
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state.json cannot be read: No such file"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 99}, "has schema 99, this version reads up to 2; use the version that wrote it"),
        (
            {"step": None},
            r"state.json is damaged: step: Input should be a valid integer; restore it from a copy",
        ),
        ({"step": -1}, r"state.json is damaged: step: Input should be greater than or equal to 0"),
        ({"files": {"model.safetensors": {}}}, r"state.json is damaged: files.model.safetensors.bytes: Field required"),
        ({"metrics": {"a": "high"}}, r"metrics.a: Input should be a valid number"),
        ({"position": {"epoch": "x"}}, r"position.epoch: Input should be a valid integer"),
        ({"schema": "2"}, r"state.json is damaged: it has schema '2'"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, r"names a file '../../etc/passwd'"),
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


def whole(folder: Path) -> dict[str, Any]:
    result = read_checkpoint(folder)
    tensors = {part: result.tensors(part) for part in ("model", "optimizer")}
    return dict(result.state) | {
        part: {name: (value.dtype, value.tolist()) for name, value in item.items()} for part, item in tensors.items()
    }


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_that_is_damaged_anywhere_is_refused(folder: Path, name: str) -> None:
    try_all(folder / name, lambda: whole(folder), bits=400)


def first_schema(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    del state["checksum"]
    (folder / "state.json").write_text(json.dumps(state | {"schema": 1}))


def test_a_checkpoint_of_the_first_schema_is_read(folder: Path) -> None:
    right = whole(folder)
    first_schema(folder)
    assert whole(folder) == right | {"schema": 1}
    write_checkpoint(folder, {**TrainState(step=7, samples=3).plain(), "metrics": {"a": 0.5}}, TENSORS)
    first_schema(folder)
    names = folder.name
    try_all(folder / "state.json", lambda: TrainState.of(read_checkpoint(folder).state), same=False, names=names)


def test_a_key_that_is_missing_is_named(folder: Path) -> None:
    first_schema(folder)
    state = read_state(folder)
    with pytest.raises(CheckpointError, match=r"state.json is damaged: it has no 'position'; restore it from"):
        TrainState.of(state)
    assert state.get("vocabularies") is None


def test_tensors_that_are_none_are_named(folder: Path) -> None:
    for data in (b"", b"\xff" * 40, (2**40).to_bytes(8, "little") + b"{}", b"\x08" + bytes(7) + b"[" * 8):
        state = json.loads((folder / "state.json").read_text())
        path = folder / "model.safetensors"
        path.write_bytes(data)
        change_state(folder, files=state["files"] | {path.name: Sum.of(data).__dict__})
        with pytest.raises(CheckpointError, match=r"model.safetensors is damaged, or no safetensors file"):
            read_checkpoint(folder).tensors("model")


def test_what_was_replaced_comes_back_where_the_last_step_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, {"step": 8}, TENSORS)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read_checkpoint(folder).step == 7
