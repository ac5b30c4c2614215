"""One checkpoint: a folder of safetensors files, and a ``state.json`` with their sizes and checksums. No pickle.

In the single form, each part is a file: ``model.safetensors``. In the sharded form, it is a folder with a file for each
shard: ``model/shard-00001-of-00002.safetensors``. A checkpoint is written under a temporary name, flushed to disk and
renamed, so that it is never incomplete.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import NonNegativeInt, TypeAdapter
from torch import Tensor

from ..core.errors import UserError
from ..data.atomic_files import flush_folder, write_flushed
from ..data.extents import Extents
from ..data.storage import Format, Sum
from .saved_tensors import SavedTensors, Shard, encode_shards
from .weights import gathered

PARTS = ("model", "optimizer", "ema")
"""The parts of a checkpoint."""
_SHARD = re.compile(r"(\w+)/shard-(\d{5})-of-(\d{5})\.safetensors")
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

    @property
    def shards(self) -> int:
        """Number of shards of each part; 0 in the single form."""
        return max((int(match[3]) for match in map(_SHARD.fullmatch, self.state["files"]) if match), default=0)

    def __contains__(self, part: str) -> bool:
        return bool(self._files(part))

    def _files(self, part: str) -> list[str]:
        return sorted(name for name in self.state["files"] if name.startswith((f"{part}.", f"{part}/")))

    def saved(self, part: str) -> SavedTensors:
        """The tensors of one part, which are read from the files when they are accessed.

        Raises:
            CheckpointError: it has no such part, or a file is damaged.
        """
        if part not in self:
            raise CheckpointError(f"{self.folder} holds no {part}; it has {', '.join(sorted(self.state['files']))}")
        return SavedTensors([self.folder / name for name in self._files(part)], REMEDY, CheckpointError)

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, on the host.

        Raises:
            CheckpointError: it has no such part, or a file is damaged.
        """
        return dict(self.saved(part))

    def digest(self, part: str) -> str:
        """SHA-256 of a part: of its file, or of the checksums of its shards."""
        sums = [str(self.state["files"][name]["sha256"]) for name in self._files(part)]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def single_file(part: str, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The file of a part in the single form, by its name."""
    # The format has neither strides nor devices. Other libraries read only files that name theirs.
    data = safetensors.torch.save({name: gathered(value) for name, value in tensors.items()}, {"format": "pt"})
    return {f"{part}.safetensors": data}


def shard_file(part: str, shards: Mapping[str, Shard], index: int, count: int) -> dict[str, bytes]:
    """The file of a shard of a part, by its name.

    Args:
        part: one of :data:`PARTS`.
        shards: rows by the name of their tensor.
        index: of the shard, from 0.
        count: number of shards.
    """
    return {f"{part}/shard-{index + 1:05d}-of-{count:05d}.safetensors": encode_shards(shards)}


def prepare(folder: Path) -> Path:
    """Makes the folder that a checkpoint is written into before it gets its name.

    Raises:
        OSError: it cannot be made.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    return aside


def write_files(aside: Path, files: Mapping[str, bytes]) -> dict[str, Sum]:
    """Writes files of a checkpoint into what :func:`prepare` made, and returns their sizes and checksums.

    Raises:
        OSError: the disk is full or fails.
    """
    sums = {}
    for name, data in files.items():
        (aside / name).parent.mkdir(exist_ok=True)
        write_flushed(aside / name, data)
        sums[name] = Sum.of(data)
    return sums


def commit(folder: Path, state: Mapping[str, Any], sums: Mapping[str, Sum]) -> None:
    """Gives a checkpoint its name once all of its files are written, replacing one of the same name.

    Args:
        folder: of the checkpoint.
        state: JSON-serializable; ``schema`` and ``files`` are added.
        sums: of its files by name.

    Raises:
        OSError: the disk is full or fails. One that was there before is kept.
    """
    aside, previous = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    try:
        files = {name: sums[name].__dict__ for name in sorted(sums)}
        write_flushed(aside / "state.json", STATE.encode({**state, "files": files}))
        for inner in {(aside / name).parent for name in files}:
            flush_folder(inner)
        flush_folder(aside)
        # A folder cannot be renamed over another one. After a kill between the renames, tidy() puts the old one back.
        if folder.exists():
            folder.rename(previous)
        aside.rename(folder)
    finally:
        discard(folder)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
    # A rename is durable only once the folder that it happened in is.
    flush_folder(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def discard(folder: Path) -> None:
    """Removes what was written of a checkpoint that did not get its name."""
    shutil.rmtree(folder.with_name(f".{folder.name}.tmp"), ignore_errors=True)


def write_checkpoint(
    folder: Path, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]], *, shards: int = 0
) -> None:
    """Writes a checkpoint, replacing one of the same name.

    Args:
        folder: of the checkpoint; the parent must exist.
        state: JSON-serializable; ``schema`` and ``files`` are added.
        parts: tensors by name, of each part.
        shards: number of shards; the single form for 0.

    Raises:
        OSError: the disk is full or fails. The incomplete checkpoint is removed, and one that was there before is kept.
    """
    aside = prepare(folder)
    try:
        sums: dict[str, Sum] = {}
        # Files one after another, so that the content of one alone is in memory.
        for part, tensors in parts.items():
            assert part in PARTS
            for index in range(shards or 1):
                content = (
                    shard_file(part, _rows_of_shard(tensors, index, shards), index, shards)
                    if shards
                    else single_file(part, tensors)
                )
                sums |= write_files(aside, content)
        commit(folder, state, sums)
    finally:
        discard(folder)


def _rows_of_shard(tensors: Mapping[str, Tensor], index: int, count: int) -> dict[str, Shard]:
    """As FSDP2 divides rows. Tensors of one row or none are in the first shard."""
    shards = {}
    for name, value in tensors.items():
        rows = -(-len(value) // count) if value.ndim and len(value) > 1 else 0
        if rows and index * rows < len(value):
            shards[name] = Shard(value[index * rows : (index + 1) * rows], index * rows)
        elif not rows and index == 0:
            shards[name] = Shard(value)
    return shards


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
    _check_names(folder / "state.json", state["files"])
    for name, expected in state["files"].items():
        Sum(**expected).check(folder / name, REMEDY, CheckpointError)
    return Checkpoint(folder, state)


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Refuses names that are not of a checkpoint, and shards of which some are not named."""
    names = set(names)
    for name in names:
        match = _SHARD.fullmatch(name)
        if name not in {f"{part}.safetensors" for part in PARTS} and (match is None or match[1] not in PARTS):
            allowed = ", ".join(f"{part}.safetensors" for part in PARTS)
            raise CheckpointError(f"{path} names a file {name!r}; a checkpoint has {allowed}, or shards of these")
        if match is not None:
            expected = {f"{match[1]}/shard-{index + 1:05d}-of-{match[3]}.safetensors" for index in range(int(match[3]))}
            if missing := sorted(expected - names):
                raise CheckpointError(f"{path} names {name} and not {missing[0]}; {REMEDY}")
