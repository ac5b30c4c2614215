"""Files that are there whole or not at all: written aside, flushed to the disk, then renamed."""

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
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Waits until the disk has a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file in place of what was there; a reader sees the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_flushed(aside, data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    flush_folder(path.parent)


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Checks that files which will be written into a folder are regular ones where they are there already.

    Raises:
        UserError: one is a folder, FIFO, socket or device; it would fail late, or never return.
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
def explained(folder: Path) -> Iterator[None]:
    """Says of a disk that is full or read-only what was being written, and what to do.

    Raises:
        UserError: in place of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{folder} cannot be written: {error.strerror}; free some space, or choose another disk, and run it again. "
            "Nothing half written is left"
        ) from error


LOCK = ".lock"
"""The file in a folder that a process locks while it writes there. It stays when the lock is released."""
RUN_FILES = (LOCK, "config.yaml", "metrics.jsonl", "summary.json")
"""Files that a run writes into its folder."""

_locked: set[tuple[int, int]] = set()
"""Folders that this process has locked, by device and inode: file locks keep other processes out, not threads."""
_guard = threading.Lock()


def _forget_locks() -> None:
    global _guard
    _guard = threading.Lock()
    _locked.clear()


# Locks belong to a process: a forked child has none, and may itself lock what its parent released.
os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def exclusive_lock(folder: Path, *, create: bool = False) -> Iterator[None]:
    """Locks a folder, so that no other process and no other thread writes into it.

    The lock is the process's own, so workers that outlive a killed process do not keep it. The lock file is not
    removed: a process that had opened it would lock a file that no one else can find any more.

    Args:
        folder: to be locked.
        create: make the folder where it is missing.

    Raises:
        UserError: another process or thread has locked the folder, or its file system has no locks.
    """
    descriptor, key = _lock(folder, create=create)
    try:
        yield
    finally:
        # In this order: closing any descriptor of the file releases the lock of the whole process.
        os.close(descriptor)
        with _guard:
            _locked.discard(key)


def _lock(folder: Path, *, create: bool) -> tuple[int, tuple[int, int]]:
    """An open descriptor of the locked file, and the folder's device and inode."""
    path = folder / LOCK
    while True:
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                # It was there, and another process removed it before pathlib looked what it is.
                if folder.exists():
                    raise
                continue
        with _guard:
            try:
                found = folder.stat()
                key = (found.st_dev, found.st_ino)
                if key in _locked:
                    raise _in_use(folder)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except FileNotFoundError:
                if create:
                    continue
                raise
            try:
                _lock_file(descriptor, folder)
                # Whoever held it before may have removed or moved the folder with the file in it.
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
    """Makes a new folder under another name, and moves it to its place when the block ends without an error.

    What a killed process left half done is cleared away first; what an error leaves, at its end.

    Yields:
        The folder to write into, empty but for its lock.

    Raises:
        UserError: there is something in its place already, or another process is making it.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    with exclusive_lock(draft, create=True):
        moved = False
        try:
            if folder.exists():
                raise UserError(f"{folder} is there already; choose another folder, or remove it")
            _empty(draft)
            yield draft
            draft.rename(folder)
            moved = True
            (folder / LOCK).unlink(missing_ok=True)
            flush_folder(folder.parent)
        finally:
            if not moved:
                # The lock file goes last: from then on another process may use the name.
                _empty(draft)
                with suppress(OSError):
                    (draft / LOCK).unlink()
                    draft.rmdir()


def _empty(folder: Path) -> None:
    """Removes all that a folder holds except its lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: Path) -> UserError:
    return UserError(f"{folder} is being written by another process; wait for it, or choose another")
