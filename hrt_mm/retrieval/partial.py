"""Collections that are written in several sessions: what was committed outlives a kill.

Rows are appended in a hidden folder beside the collection, ``.NAME.partial``, which becomes the collection when it is
complete. :meth:`PartialWriter.commit` replaces its ``progress.json``. Later rows are cut off when work is resumed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import LOCK, empty_folder, exclusive_lock, explained, flush_folder, replace_file
from ..data.storage import Format
from .collection import Collection, Committed, Writer, writing
from .rows import Model, Row

PROGRESS = "progress.json"
RESTART = "start again with --restart"
FORMAT = Format("the beginning of a collection", RESTART)
KEPT = "What was embedded is kept, and the same command continues from there"


@dataclass(frozen=True)
class _Progress:
    """The content of ``progress.json``."""

    model: Model
    options: dict[str, Any]
    committed: Committed


_PROGRESS = TypeAdapter(_Progress)


class PartialWriter(Writer):
    """Writes a collection that may be resumed.

    Args:
        folder: of the partial collection; must exist.
        model: of the vectors.
        options: that determine the rows, as JSON.

    Attributes:
        written: tower and stamp of the samples that are written.
        wanted: tower and stamp of the samples that the collection is to have. Others are dropped when it is complete.

    Raises:
        UserError: the folder holds rows of another model or other options, or it is damaged.
    """

    def __init__(self, folder: Path, model: Model, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self.written: set[tuple[str, str]] = set()
        self.wanted: set[tuple[str, str]] = set()
        try:
            super().__init__(folder, model, self._committed(folder, model))
        except OSError as error:
            raise UserError(f"{folder} is damaged: {error.strerror}; {RESTART}") from error

    def _committed(self, folder: Path, model: Model) -> Committed | None:
        path = folder / PROGRESS
        if not path.exists():
            return None
        progress = FORMAT.check(path, FORMAT.read(path), _PROGRESS)
        there = f"{folder} holds {progress.committed.count:,} vectors"
        if (progress.model.fingerprint, progress.model.dim) != (model.fingerprint, model.dim):
            raise UserError(f"{there} of another model; {RESTART}")
        for name, value in self.options.items():
            if (before := progress.options.get(name)) != value:
                raise UserError(
                    f"{there} that were embedded with {name} {before!r}, not {value!r}; repeat that option, "
                    f"or {RESTART}"
                )
        return progress.committed

    def _record(self, row: Row, size: int) -> None:
        super()._record(row, size)
        if not row.level:
            self.written.add((row.tower, row.stamp))

    def commit(self) -> None:
        """Makes permanent what was added so far."""
        if not self.keys:
            return
        progress = {"model": self.model.plain(), "options": self.options, "committed": self.flush().__dict__}
        replace_file(self.folder / PROGRESS, FORMAT.encode(progress))


@contextmanager
def resuming(
    folder: Path, model: Model, options: Mapping[str, Any], *, restart: bool = False
) -> Iterator[PartialWriter]:
    """Writes a collection, and continues where an earlier session ended.

    After an error, what was committed is kept. The collection appears when the block ends.

    Args:
        folder: of the collection; must not exist.
        model: of the vectors.
        options: that determine the rows, as JSON. They must be those of the earlier session.
        restart: discard what an earlier session has written.

    Raises:
        UserError: the folder exists, another process is writing it, an earlier session had other options, or the disk
            is full.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with explained(folder, KEPT), exclusive_lock(partial, create=True):
        try:
            if folder.exists():
                raise UserError(f"{folder} exists already; choose another folder, or remove it")
            if restart or not (partial / PROGRESS).exists():
                empty_folder(partial)
            writer = PartialWriter(partial, model, options)
            try:
                yield writer
                writer.finish()
            finally:
                writer.close()
            if writer.written <= writer.wanted:
                partial.rename(folder)
                for name in (PROGRESS, LOCK):
                    (folder / name).unlink(missing_ok=True)
                flush_folder(folder.parent)
            else:
                writer.counts = _copy(Collection(partial), folder, writer.wanted)
                (partial / PROGRESS).unlink(missing_ok=True)
        finally:
            if partial.exists() and not (partial / PROGRESS).exists():
                shutil.rmtree(partial, ignore_errors=True)


def _copy(collection: Collection, folder: Path, wanted: set[tuple[str, str]]) -> Counter[str]:
    """Copies the wanted samples with their pieces, which follow them, and returns the number of vectors by tower."""
    with writing(folder, collection.model) as writer:
        media: dict[str, str] = {}
        wants = False
        for position, row in enumerate(collection.rows()):
            wants = (row.tower, row.stamp) in wanted if not row.level else wants
            if not wants:
                continue
            if (path := collection.media(row)) is not None and row.file not in media:
                media[row.file] = writer.media(path.suffix, path.read_bytes())
            file = media.get(row.file, "")
            writer.add(collection.vectors_ND[position : position + 1], [replace(row, file=file)])
    return writer.counts
