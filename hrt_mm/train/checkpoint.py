"""One checkpoint: a folder of safetensors files and a ``state.json`` that knows their sizes and sums. No pickle.

It is written under another name, flushed to the disk and renamed, so that what has a checkpoint's name is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import NonNegativeInt, TypeAdapter
from torch import Tensor

from ..core.errors import UserError
from ..data.atomic_files import flush_folder, write_flushed
from ..data.extents import Extents
from ..data.storage import Format, Sum, read_tensors

PARTS = ("model", "optimizer", "ema")
"""What may lie in a checkpoint, each a safetensors file."""
REMEDY = "restore it from a copy, or use another checkpoint"


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or is of another configuration."""


STATE = Format("a checkpoint", REMEDY, error=CheckpointError)


@dataclass(frozen=True)
class _Bad:
    seen: NonNegativeInt
    bad: NonNegativeInt
    names: dict[str, str]


@dataclass(frozen=True)
class _Position:
    epoch: NonNegativeInt
    batch: NonNegativeInt


@dataclass(frozen=True)
class _Monitor:
    metric: str
    mode: str


@dataclass(frozen=True)
class _Known:
    """What ``state.json`` holds, as far as the types are known here. All but the first two are a run's."""

    step: NonNegativeInt
    files: dict[str, Sum]
    position: _Position = _Position(0, 0)
    samples: NonNegativeInt = 0
    tokens: NonNegativeInt = 0
    seconds: float = 0.0
    evaluated: NonNegativeInt = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    failed_saves: NonNegativeInt = 0
    meters: dict[str, tuple[float, float]] = field(default_factory=dict)
    bad: _Bad = _Bad(0, 0, {})
    log_lines: NonNegativeInt = 0
    counts: dict[str, Any] = field(default_factory=dict)
    world_size: NonNegativeInt = 1
    monitor: _Monitor = _Monitor("", "min")
    config: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    vocabularies: dict[str, str] = field(default_factory=dict)
    extents: dict[str, Extents] = field(default_factory=dict)


_KIND = TypeAdapter(_Known)


class State(dict[str, Any]):
    """What ``state.json`` holds; a key that is missing is damage, too.

    Args:
        path: of the file.
        value: the object in it.
    """

    def __init__(self, path: Path, value: Mapping[str, Any]) -> None:
        super().__init__(value)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise STATE.damaged(self.path, f"it has no {key!r}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found whole.

    Args:
        folder: where it lies.
        state: what ``state.json`` holds.
    """

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken before it."""
        return int(self.state["step"])

    def __contains__(self, part: str) -> bool:
        return f"{part}.safetensors" in self.state["files"]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """One part's tensors, on the host.

        Raises:
            CheckpointError: it has no such part, or the file is damaged.
        """
        if part not in self:
            raise CheckpointError(f"{self.folder} holds no {part}; it has {', '.join(sorted(self.state['files']))}")
        return read_tensors(self.folder / f"{part}.safetensors", REMEDY, CheckpointError)[1]


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
            files[f"{part}.safetensors"] = Sum.of(data).__dict__
        write_flushed(aside / "state.json", STATE.encode({**state, "files": files}))
        flush_folder(aside)
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if before.exists() and not folder.exists():
            before.rename(folder)
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


def read_state(folder: Path) -> State:
    """What ``state.json`` says.

    Raises:
        CheckpointError: it is missing, damaged, or of a version that this code does not know.
    """
    path = folder / "state.json"
    value = STATE.read(path)
    STATE.check(path, value, _KIND)
    return State(path, value)


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
        Sum(**expected).check(folder / name, REMEDY, CheckpointError)
    return Checkpoint(folder, state)
