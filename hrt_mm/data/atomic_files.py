"""Atomic file and folder writes, and folder locks.

Contents are written under a temporary name, flushed to disk and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import UserError
from .files import special


def write_flushed(path: Path, data: bytes) -> None:
    """Writes a file and flushes it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically: readers see the old content or the new one."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_flushed(aside, data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    flush_folder(path.parent)


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Checks that files which will be written into a folder can be: those that exist must be regular files.

    Raises:
        UserError: one is a folder, FIFO, socket or device, on which a later write would fail or block.
    """
    for name in names:
        try:
            kind = special((folder / name).stat().st_mode)
        except FileNotFoundError:
            continue
        if kind is not None:
            raise UserError(f"{folder / name} is {kind}, and a file of that name will be written; move it away")


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def explained(folder: Path, left: str = "No incomplete files are left") -> Iterator[None]:
    """Turns errors of a full or read-only disk into a message that names the folder and the fix.

    Args:
        folder: that is written.
        left: the state that the error leaves.

    Raises:
        UserError: in place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{folder} cannot be written: {error.strerror}; free some space, or choose another disk, and run it again. "
            f"{left}"
        ) from error


LOCK = ".lock"
"""The lock file in a folder. It is not removed when the lock is released."""
RUN_FILES = (LOCK, "config.yaml", "metrics.jsonl", "summary.json")
"""Files that a training run writes into its folder."""

_locked: set[tuple[int, int]] = set()
"""Folders locked by this process, as (device, inode). File locks exclude other processes, but not its threads."""
_guard = threading.Lock()


def _forget_locks() -> None:
    global _guard
    _guard = threading.Lock()
    _locked.clear()


# A forked child inherits no locks, and may lock a folder that its parent has released.
os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def exclusive_lock(folder: Path, *, create: bool = False) -> Iterator[None]:
    """Locks a folder against other processes and threads.

    The lock belongs to the process, so worker processes that outlive it do not hold it. The lock file is not removed,
    as a process that has just opened it would then lock a deleted file.

    Args:
        folder: to lock.
        create: create the folder if it is missing.

    Raises:
        UserError: the folder is locked, or its file system does not support locks.
    """
    descriptor, key = _lock(folder, create=create)
    try:
        yield
    finally:
        # In this order, as closing any descriptor of the file releases the lock of the whole process.
        os.close(descriptor)
        with _guard:
            _locked.discard(key)


def _lock(folder: Path, *, create: bool) -> tuple[int, tuple[int, int]]:
    """Returns an open descriptor of the lock file, and the folder's device and inode."""
    path = folder / LOCK
    while True:
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                # Another process removed the folder between mkdir and the check of what exists there.
                if folder.exists():
                    raise
                continue
        with _guard:
            try:
                status = folder.stat()
                key = (status.st_dev, status.st_ino)
                if key in _locked:
                    raise _in_use(folder)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except FileNotFoundError:
                if create:
                    continue
                raise
            try:
                _lock_file(descriptor, folder)
                # The previous owner may have removed or moved the folder while this process waited.
                if _is_at(descriptor, path):
                    _locked.add(key)
                    return descriptor, key
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _lock_file(descriptor: int, folder: Path) -> None:
    try:
        os.lockf(descriptor, os.F_TLOCK, 0)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _in_use(folder) from error
        raise UserError(f"{folder} cannot be locked ({error.strerror}); choose a folder on another disk") from error


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """Creates a folder atomically: under a temporary name, renamed when the block ends without an error.

    Incomplete folders are removed: one of a killed process at the start, and that of this block after an error.

    Yields:
        The folder to write into, empty except for its lock.

    Raises:
        UserError: the folder exists, or another process is creating it.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    with exclusive_lock(draft, create=True):
        moved = False
        try:
            if folder.exists():
                raise UserError(f"{folder} is there already; choose another folder, or remove it")
            empty_folder(draft)
            yield draft
            draft.rename(folder)
            moved = True
            (folder / LOCK).unlink(missing_ok=True)
            flush_folder(folder.parent)
        finally:
            if not moved:
                # The lock file is removed last, as another process may use the name from then on.
                empty_folder(draft)
                with suppress(OSError):
                    (draft / LOCK).unlink()
                    draft.rmdir()


def empty_folder(folder: Path) -> None:
    """Removes the content of a folder except its lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still refers to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: Path) -> UserError:
    return UserError(f"{folder} is being written by another process; wait for it, or choose another")
