"""The manifest of an index: its model, its segments, and its target recall. Replacing it is what changes an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import PositiveInt, TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import replace_file
from ..data.storage import Format
from .neighbours import REMEDY
from .rows import Model
from .segment import Entry

MANIFEST = Format("an index, as `hrt-mm index build` makes one", REMEDY, schema=3)
FILE = "manifest.json"
RECALL = 0.99
"""Target recall of indexes."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``. Segments have checksums since schema 2, and there is a target since 3.

    Args:
        model: of the vectors.
        segments: in the order in which they were added.
        next: number of the next file.
        recall: the target.
    """

    model: Model
    segments: Sequence[Entry]
    next: PositiveInt
    recall: float = RECALL


_SCHEMA = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of an index.

    Raises:
        UserError: the folder is not an index, or the manifest is damaged.
    """
    path = folder / FILE
    value = MANIFEST.read(path)
    manifest = MANIFEST.check(path, value, _SCHEMA)
    for entry in manifest.segments:
        if not entry.name or Path(entry.name).name != entry.name or Path(entry.removed).name != entry.removed:
            raise UserError(f"{path} names a file outside the index: {entry.name!r}")
        if value["schema"] > 1 and entry.sums.keys() != entry.files:
            raise MANIFEST.damaged(path, f"{entry.name} has sums of {', '.join(sorted(entry.sums)) or 'no file'}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the manifest of an index atomically."""
    replace_file(folder / FILE, MANIFEST.encode(asdict(manifest)))


def manifest_stamp(path: str) -> tuple[int, int, int]:
    """Changes whenever the manifest at a path is replaced; zeros if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
