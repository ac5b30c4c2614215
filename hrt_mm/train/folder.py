"""The run folder: where it is, whether a run may write there, and the checkpoint to resume from."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path

from ..core.errors import ConfigError
from ..data.atomic_files import LOCK, RUN_FILES, check_replaceable, exclusive_lock, replace_file
from .checkpoint import Checkpoint, CheckpointError
from .distributed import ProcessGroup
from .identity import check_same_run
from .resolved import resolved_yaml
from .run_config import RunConfig
from .store import CheckpointStore

log = logging.getLogger(__name__)

PRETRAIN = "pretrain"
"""Subfolder of the pre-training run."""


def run_dir(config: RunConfig) -> Path:
    """The run folder: ``run.dir``, or ``runs/DATA-TASK``."""
    return config.run.dir or Path("runs") / f"{config.data.type}-{config.task.type}"


def open_folder(
    config: RunConfig, store: CheckpointStore, ranks: ProcessGroup, resources: ExitStack, *, resume: bool
) -> Checkpoint | None:
    """Creates and locks the run folder, and finds the checkpoint to resume from, if any.

    Args:
        config: of the run.
        store: the folder's checkpoints.
        ranks: the process group. The first rank goes ahead, as it may have to repair an interrupted save.
        resources: holds the lock.
        resume: continue from the newest checkpoint.

    Raises:
        ConfigError: the folder cannot be written, is in use, or holds another run.
    """
    checkpoint = None
    if ranks.is_main:
        folder = run_dir(config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_replaceable(folder, RUN_FILES)
            resources.enter_context(exclusive_lock(folder))
        except OSError as error:
            raise ConfigError(
                f"run.dir {folder} cannot be written: {error.strerror}; choose another folder, or change its "
                "permissions"
            ) from error
        checkpoint = _checkpoint_to_resume(config, store, folder, resume=resume)
    ranks.barrier()
    return checkpoint if ranks.is_main or not resume else store.newest()


def _checkpoint_to_resume(
    config: RunConfig, store: CheckpointStore, folder: Path, *, resume: bool
) -> Checkpoint | None:
    entries = _entries(folder) - ({PRETRAIN} if config.train.pretrain is not None else set())
    if entries and "config.yaml" not in entries:
        raise ConfigError(
            f"run.dir {folder} is not empty and not a run folder: it holds {min(entries)}; choose another"
        )
    if entries and not resume:
        raise _in_use(folder)
    checkpoint = store.newest() if resume else None
    if checkpoint is not None:
        check_same_run(config, checkpoint)
    elif entries:
        log.warning("%s holds no checkpoint, so the run starts from the beginning", folder)
    return checkpoint


def check_unused(folder: Path) -> None:
    """Checks that a run folder is missing or empty.

    Raises:
        ConfigError: it holds something; names it.
    """
    entries = _entries(folder) if folder.is_dir() else set()
    if PRETRAIN in entries and "config.yaml" not in entries:
        raise _in_use(folder / PRETRAIN)
    if entries:
        raise _in_use(folder)


def check_folder(config: RunConfig, *, resume: bool) -> None:
    """Checks that a run could write into its folder, without leaving anything there.

    Args:
        config: of the run.
        resume: whether the run would continue from the newest checkpoint.

    Raises:
        UserError: another process is writing there, it holds another run or other files, or it cannot be written.
    """
    folder = run_dir(config)
    if not folder.exists():
        _check_writable(next(parent for parent in folder.absolute().parents if parent.exists()), folder)
        return
    _check_writable(folder, folder)
    check_replaceable(folder, RUN_FILES)
    lock_existed = (folder / LOCK).exists()
    with exclusive_lock(folder):
        try:
            if not resume:
                check_unused(folder)
            else:
                _check_resumable(config, folder)
        finally:
            # Only a check: a folder that was empty stays empty.
            if not lock_existed:
                (folder / LOCK).unlink(missing_ok=True)


def _check_resumable(config: RunConfig, folder: Path) -> None:
    """As :func:`open_folder`, but leaves damaged checkpoints where they are."""
    store = CheckpointStore(folder)
    for step in reversed(store.steps()):
        try:
            checkpoint = store.read(step)
        except CheckpointError:
            continue
        check_same_run(config, checkpoint)
        return


def _check_writable(existing: Path, folder: Path) -> None:
    """Checks the folder itself, or the nearest parent that exists."""
    if not existing.is_dir():
        raise ConfigError(f"run.dir {folder}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"run.dir {folder}: {existing} cannot be written; choose another folder, or change its permissions"
        )


def _entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.name != LOCK}


def _in_use(folder: Path) -> ConfigError:
    steps = CheckpointStore(folder).steps()
    progress = f"with a checkpoint of step {steps[-1]}" if steps else "without a checkpoint"
    return ConfigError(
        f"run.dir {folder} holds a run already, {progress}; resume it (--resume), choose another run.dir, or remove it"
    )


def write_config(config: RunConfig) -> None:
    """Writes the resolved configuration, which marks the folder as a run's."""
    replace_file(run_dir(config) / "config.yaml", resolved_yaml(config).encode())
