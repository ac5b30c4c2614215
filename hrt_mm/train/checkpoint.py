"""One checkpoint: a folder of safetensors files and a ``state.json`` that knows their sizes and sums. No pickle.

It is written under another name, flushed to the disk and renamed, so that what has a checkpoint's name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..errors import UserError
from .files import flush_folder, write_flushed

SCHEMA = 1
PARTS = ("model", "optimizer", "ema")
"""What may lie in a checkpoint, each a safetensors file."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or is of another configuration."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found whole.

    Args:
        folder: where it lies.
        state: what ``state.json`` holds.
    """

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken before it."""
        return int(self.state["step"])

    def __contains__(self, part: str) -> bool:
        return f"{part}.safetensors" in self.state["files"]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """One part's tensors, on the host.

        Raises:
            CheckpointError: it has no such part.
        """
        if part not in self:
            raise CheckpointError(f"{self.folder} holds no {part}; it has {', '.join(sorted(self.state['files']))}")
        found = safetensors.torch.load_file(self.folder / f"{part}.safetensors")
        # They are views of the mapped file, which may go or change.
        return {name: value.clone() for name, value in found.items()}


def write_checkpoint(folder: Path, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes a checkpoint, in place of one of the same name.

    Args:
        folder: its final name; the parent must exist.
        state: plain data; ``schema`` and ``files`` are added.
        parts: tensors by name, of each part.

    Raises:
        OSError: the disk is full or fails. What was half written is removed, and what was there before stays.
    """
    aside, before = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        files = {}
        for part, tensors in parts.items():
            assert part in PARTS
            data = safetensors.torch.save({name: value.contiguous().cpu() for name, value in tensors.items()})
            write_flushed(aside / f"{part}.safetensors", data)
            files[f"{part}.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps({"schema": SCHEMA, **state, "files": files}, indent=1)
        write_flushed(aside / "state.json", text.encode())
        flush_folder(aside)
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    flush_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Clears away what a killed process left half done, and takes back a checkpoint that it was replacing."""
    for aside in parent.glob(".step-*.tmp"):
        shutil.rmtree(aside)
    for before in parent.glob(".step-*.old"):
        folder = parent / before.name.removeprefix(".").removesuffix(".old")
        if folder.exists():
            shutil.rmtree(before)
        else:
            before.rename(folder)


def read_state(folder: Path) -> dict[str, Any]:
    """What ``state.json`` says.

    Raises:
        CheckpointError: it is missing, cut short, or of a version that this code does not know.
    """
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is cut short or damaged: {error}") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else None
        raise CheckpointError(
            f"{path} has schema {found!r}, this version reads {SCHEMA}; use the version that wrote it"
        )
    if not isinstance(state.get("step"), int) or not isinstance(state.get("files"), dict):
        raise CheckpointError(f"{path} is damaged: it names no step or no files")
    return state


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint, once each of its files has the size and the sum that ``state.json`` gives.

    Raises:
        CheckpointError: names the file, and what it has and should have.
    """
    state = read_state(folder)
    known = {f"{part}.safetensors" for part in PARTS}
    for name, expected in state["files"].items():
        if name not in known:
            raise CheckpointError(f"{folder / 'state.json'} names a file {name!r}; a checkpoint has {sorted(known)}")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        size = os.path.getsize(path)
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} is cut short: expected {expected['bytes']} bytes, found {size}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise CheckpointError(f"{path} is damaged: its {size} bytes are not those that were saved")
    return Checkpoint(folder, state)
