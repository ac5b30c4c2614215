"""One checkpoint: a folder of safetensors files, and a ``state.json`` with their sizes and checksums. No pickle.

It is written under a temporary name, flushed to disk and renamed, so that a checkpoint is never incomplete.
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
from .weights import gathered

PARTS = ("model", "optimizer", "ema")
"""The files of a checkpoint, each ``PART.safetensors``."""
REMEDY = "restore it from a copy, or use another checkpoint"


class CheckpointError(UserError):
    """A checkpoint cannot be read, or is of another configuration."""


STATE = Format("a checkpoint", REMEDY, error=CheckpointError)


@dataclass(frozen=True)
class _Bad:
    seen: NonNegativeInt
    bad: NonNegativeInt
    names: dict[str, str]
    shards: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Position:
    epoch: NonNegativeInt
    batch: NonNegativeInt
    stream: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Monitor:
    metric: str
    mode: str


@dataclass(frozen=True)
class _Patience:
    best: float | None
    stale: NonNegativeInt


@dataclass(frozen=True)
class _StateSchema:
    """The content of ``state.json``. Keys with a default are absent outside of training runs."""

    step: NonNegativeInt
    files: dict[str, Sum]
    position: _Position = _Position(0, 0)
    samples: NonNegativeInt = 0
    tokens: NonNegativeInt = 0
    seconds: float = 0.0
    evaluated: NonNegativeInt = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    failed_saves: NonNegativeInt = 0
    patience: _Patience = _Patience(None, 0)
    meters: dict[str, tuple[float, float]] = field(default_factory=dict)
    bad: _Bad = _Bad(0, 0, {})
    log_lines: NonNegativeInt = 0
    counts: dict[str, Any] = field(default_factory=dict)
    world_size: NonNegativeInt = 1
    token_batches: str = ""
    monitor: _Monitor = _Monitor("", "min")
    config: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    vocabularies: dict[str, str] = field(default_factory=dict)
    extents: dict[str, Extents] = field(default_factory=dict)


_STATE_SCHEMA = TypeAdapter(_StateSchema)


class State(dict[str, Any]):
    """The content of ``state.json``. A missing key raises :class:`CheckpointError`.

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
    """A checkpoint whose files have been verified.

    Args:
        folder: of the checkpoint.
        state: the content of ``state.json``.
    """

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.state["step"])

    def __contains__(self, part: str) -> bool:
        return f"{part}.safetensors" in self.state["files"]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, on the host.

        Raises:
            CheckpointError: it has no such part, or the file is damaged.
        """
        if part not in self:
            raise CheckpointError(f"{self.folder} holds no {part}; it has {', '.join(sorted(self.state['files']))}")
        return read_tensors(self.folder / f"{part}.safetensors", REMEDY, CheckpointError)[1]


def write_checkpoint(folder: Path, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes a checkpoint, replacing one of the same name.

    Args:
        folder: of the checkpoint; the parent must exist.
        state: JSON-serializable; ``schema`` and ``files`` are added.
        parts: tensors by name, of each part.

    Raises:
        OSError: the disk is full or fails. The incomplete checkpoint is removed, and one that was there before is kept.
    """
    aside, previous = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        files = {}
        for part, tensors in parts.items():
            assert part in PARTS
            # The format has neither strides nor devices. Other libraries read only files that name theirs.
            data = safetensors.torch.save({name: gathered(value) for name, value in tensors.items()}, {"format": "pt"})
            write_flushed(aside / f"{part}.safetensors", data)
            files[f"{part}.safetensors"] = Sum.of(data).__dict__
        write_flushed(aside / "state.json", STATE.encode({**state, "files": files}))
        flush_folder(aside)
        # A folder cannot be renamed over another one. After a kill between the renames, tidy() puts the old one back.
        if folder.exists():
            folder.rename(previous)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
    # A rename is durable only once the folder that it happened in is.
    flush_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Removes what a killed process left incomplete, and restores a checkpoint that it was replacing."""
    for aside in parent.glob(".step-*.tmp"):
        shutil.rmtree(aside)
    for previous in parent.glob(".step-*.old"):
        folder = parent / previous.name.removeprefix(".").removesuffix(".old")
        if folder.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(folder)


def read_state(folder: Path) -> State:
    """Reads ``state.json``.

    Raises:
        CheckpointError: it is missing, damaged, or of an unknown version.
    """
    path = folder / "state.json"
    value = STATE.read(path)
    STATE.check(path, value, _STATE_SCHEMA)
    return State(path, value)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint and verifies the size and checksum of each of its files.

    Raises:
        CheckpointError: names the file, and its actual and expected values.
    """
    state = read_state(folder)
    allowed = {f"{part}.safetensors" for part in PARTS}
    for name, expected in state["files"].items():
        if name not in allowed:
            raise CheckpointError(f"{folder / 'state.json'} names a file {name!r}; a checkpoint has {sorted(allowed)}")
        Sum(**expected).check(folder / name, REMEDY, CheckpointError)
    return Checkpoint(folder, state)
