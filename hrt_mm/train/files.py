"""Files that are there whole or not at all: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path


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
