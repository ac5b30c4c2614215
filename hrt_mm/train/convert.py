"""Converting checkpoints between the single form, a file for each part, and shards."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError
from ..data.atomic_files import exclusive_lock, explained
from .checkpoint import PARTS, read_checkpoint, write_checkpoint
from .store import NAME, CheckpointStore


def convert(source: Path, shards: int) -> list[Path]:
    """Converts a checkpoint in place, or all checkpoints of a run. Those of this form already are left as they are.

    Args:
        source: a run folder, or one of its ``checkpoints/step-…``.
        shards: number of shards; the single form for 0.

    Returns:
        The checkpoints that were converted.

    Raises:
        UserError: there is no checkpoint, one is damaged, the run is being trained, or the disk is full.
    """
    if NAME.fullmatch(source.name):
        run, folders = source.absolute().parent.parent, [source]
    else:
        store = CheckpointStore(source)
        run, folders = source, [store.path(step) for step in store.steps()]
        if not folders:
            raise UserError(f"{source} is no run folder with checkpoints, nor a checkpoint; give one of them")
    converted = []
    with exclusive_lock(run), explained(run, "The checkpoint that was being converted is as it was"):
        for folder in folders:
            checkpoint = read_checkpoint(folder)
            if checkpoint.shards == shards:
                continue
            state = {
                key: value for key, value in checkpoint.state.items() if key not in ("schema", "checksum", "files")
            }
            parts = {part: checkpoint.saved(part) for part in PARTS if part in checkpoint}
            write_checkpoint(folder, state, parts, shards=shards)
            converted.append(folder)
    return converted
