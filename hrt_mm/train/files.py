"""Files that are there whole or not at all: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


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


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into a folder, for as long as this one lives at most.

    The lock is the process's own, so workers that outlive a killed process do not keep it.

    Raises:
        UserError: another process holds the folder.
    """
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            os.lockf(descriptor, os.F_TLOCK, 0)
        except OSError as error:
            raise UserError(f"{folder} is being written by another process; wait for it, or choose another") from error
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
