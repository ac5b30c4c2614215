"""A collection: a folder with vectors and their rows, written atomically and memory-mapped.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import drafting, explained, flush_folder, write_flushed
from ..data.storage import Format, Sum, array_bytes, read_array
from .rows import MAX_ROW_BYTES, Model, Row, key_of, not_comparable

REMEDY = "restore it from a copy, or embed it again with `hrt-mm embed`"
METADATA = Format("a collection of vectors, as `hrt-mm embed` writes one", REMEDY, schema=3)
VECTORS = "vectors.f32"
"""The vectors in row-major order, without a header."""
MEDIA = "media"
"""Subfolder of images and sounds."""
FILES = (VECTORS, "rows.jsonl", "rows.npy", "keys.npy", "keys-places.npy", "parents.npy", "parents-places.npy")
"""Files of a collection, beside ``collection.json`` and media."""
CHECKED_UP_TO = 256 << 20
"""Total size up to which checksums are verified when a collection is opened. For larger ones only file sizes are
checked, until :meth:`Collection.verify` is called."""

BLOCK = 65_536
"""Vectors per read."""
CACHED_ROWS = 4_096
"""Rows that are kept decoded."""


@dataclass(frozen=True)
class _Metadata:
    """The content of ``collection.json``: checksums since schema 2, rows with ``tower`` (was ``part``) since 3."""

    model: Model
    count: NonNegativeInt
    files: dict[str, Sum] = field(default_factory=dict)


_METADATA_SCHEMA = TypeAdapter(_Metadata)


class Collection:
    """A collection, opened for reading.

    Args:
        folder: of the collection.
        remedy: the fix for a damaged one, for messages.

    Attributes:
        checked: whether all checksums have been verified, as is done for small collections.
        row: the row at a position. Recent ones are cached.

    Raises:
        UserError: the folder is not a collection, or it is damaged.
    """

    checked: bool

    def __init__(self, folder: Path, remedy: str = REMEDY) -> None:
        self.folder, self._remedy = folder, remedy
        path, file_format = folder / "collection.json", replace(METADATA, remedy=remedy)
        value = file_format.read(path)
        metadata = file_format.check(path, value, _METADATA_SCHEMA)
        if value["schema"] > 1 and metadata.files.keys() != set(FILES):
            raise file_format.damaged(path, f"files: it must name {', '.join(FILES)}")
        self.model, self._sums = metadata.model, metadata.files
        self._check(content=sum(expected.bytes for expected in self._sums.values()) <= CHECKED_UP_TO)
        try:
            self.vectors_ND = mapped_vectors(folder, self.model.dim, remedy)
            self._lines = _mapped(folder / "rows.npy", self._remedy)
            size = os.path.getsize(folder / "rows.jsonl")
            with (folder / "rows.jsonl").open("rb") as file:
                # An empty file cannot be mapped.
                self._text: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise UserError(f"{folder} is damaged: {error}; {self._remedy}") from error
        if not len(self.vectors_ND) == len(self._lines) - 1 == metadata.count or self._lines[-1] != size:
            raise UserError(
                f"{folder} is damaged: {len(self.vectors_ND)} vectors, {len(self._lines) - 1} rows in {size} bytes, "
                f"and it should have {metadata.count}; {self._remedy}"
            )

        self.row = lru_cache(CACHED_ROWS)(self._row)

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def verify(self) -> None:
        """Verifies the checksum of every file. Collections of schema 1 have none.

        Raises:
            UserError: a file is damaged; names it.
        """
        self._check(content=True)
        self.fingerprints()
        for _ in self.rows():
            pass
        for first in range(0, len(self), BLOCK):
            offset, reason = not_comparable(self.vectors_ND[first : first + BLOCK])
            if reason:
                raise UserError(f"{self.folder / VECTORS} is damaged: vector {first + offset} {reason}; {self._remedy}")

    def _check(self, *, content: bool) -> None:
        for name, expected in self._sums.items():
            expected.check(self.folder / name, self._remedy, content=content)
        self.checked = content

    def _row(self, position: int) -> Row:
        """The row at a position."""
        first, last = self._lines[position : position + 2].tolist()
        if not 0 <= first < last <= first + MAX_ROW_BYTES:
            raise UserError(f"{self.folder / 'rows.npy'} is damaged at row {position}; {self._remedy}")
        return Row.of(self._text[first:last], f"{self.folder}/rows.jsonl, row {position}")

    def rows_at(self, positions: Iterable[int]) -> Iterator[Row]:
        """The rows at some positions."""
        return map(self._row, positions)

    def fingerprints(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) fingerprints of all ids, ascending, and (N,) their positions."""
        return self._sorted["keys"]

    def fingerprints_by_position(self, which: str) -> np.ndarray:
        """(N,) fingerprints of the ids of all rows (``keys``), or of their parents' ids (``parents``), in order.

        Samples have no parent, and -1 in its place.
        """
        fingerprints, positions = self._sorted[which]
        by_position = np.empty(len(self), np.int64)
        by_position[positions] = fingerprints
        return by_position

    def positions_of(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Positions of rows by the fingerprint of their id (``keys``) or of their parent's id (``parents``)."""
        fingerprints, positions = self._sorted[which]
        queries = np.array(list(keys), np.int64)
        first = np.searchsorted(fingerprints, queries, "left")
        last = np.searchsorted(fingerprints, queries, "right")
        return {
            int(key): [int(position) for position in positions[low:high]]
            for key, low, high in zip(queries, first, last, strict=True)
            if high > low
        }

    def pieces_of(self, keys: Iterable[int]) -> list[int]:
        """Positions of all pieces within the rows with some keys, at any depth."""
        pieces: set[int] = set()
        pending = list(keys)
        while pending:
            positions = {each for group in self.positions_of("parents", pending).values() for each in group} - pieces
            pieces |= positions
            pending = [self.row(position).key for position in positions]
        return sorted(pieces)

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""
        for positions in self.positions_of("keys", keys).values():
            yield from self.rows_at(positions)

    @cached_property
    def _sorted(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(N,) fingerprints, ascending, and (N,) their positions, for ``keys`` and ``parents``."""
        sorted_keys = {}
        for which in ("keys", "parents"):
            fingerprints, positions = (
                _mapped(self.folder / f"{which}{end}.npy", self._remedy) for end in ("", "-places")
            )
            if not len(fingerprints) == len(positions) == len(self):
                raise UserError(
                    f"{self.folder / which}.npy is damaged: it is of {len(fingerprints)} rows; {self._remedy}"
                )
            if len(self) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
                raise UserError(
                    f"{self.folder / which}-places.npy is damaged: its positions are out of range; {self._remedy}"
                )
            sorted_keys[which] = fingerprints, positions
        return sorted_keys

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        with (self.folder / "rows.jsonl").open("rb") as file:
            for position, line in enumerate(file):
                yield Row.of(line, f"{self.folder / 'rows.jsonl'}, row {position}")

    def media(self, row: Row) -> Path | None:
        """The media file of a row, if any. Paths that lead out of the collection's media folder are ignored."""
        if not row.file or "\0" in row.file:
            return None
        inside = (self.folder / MEDIA).resolve()
        path = (inside / row.file).resolve()
        return path if path.is_relative_to(inside) and path.is_file() else None


@dataclass(frozen=True)
class Committed:
    """The part of a collection that was flushed to disk.

    Args:
        count: number of vectors.
        rows_bytes: size of their rows.
        media: number of media files.
    """

    count: NonNegativeInt
    rows_bytes: NonNegativeInt
    media: NonNegativeInt


class Writer:
    """Writes a collection incrementally, so that it may be larger than memory.

    Args:
        folder: to write into; must exist.
        model: of the vectors.
        committed: what is there already, to be continued. Anything after it is cut off.
    """

    def __init__(self, folder: Path, model: Model, committed: Committed | None = None) -> None:
        self.folder, self.model = folder, model
        self.keys: list[int] = []
        self.parents: list[int] = []
        self.counts: Counter[str] = Counter()
        self._offsets = [0]
        committed = committed or Committed(0, 0, 0)
        self._files = committed.media
        self._lines = _ChecksummedFile(folder / "rows.jsonl", committed.rows_bytes)
        self._vectors = _ChecksummedFile(folder / VECTORS, committed.count * 4 * model.dim)
        if committed.count:
            with (folder / "rows.jsonl").open("rb") as lines:
                for line in lines:
                    self._record(Row.of(line, f"{folder / 'rows.jsonl'}, row {len(self.keys)}"), len(line))

    def add(self, vectors_ND: np.ndarray, rows: Sequence[Row]) -> None:
        """Adds vectors with their rows; none of them after an error.

        Raises:
            UserError: shapes do not agree, a vector is not finite, or a row is invalid.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if vectors_ND.shape != (len(rows), self.model.dim):
            raise UserError(f"{len(rows)} rows of width {self.model.dim} got vectors of shape {vectors_ND.shape}")
        position, reason = not_comparable(vectors_ND)
        if reason:
            raise UserError(f"the vector of {rows[position].id!r} {reason}")
        lines = [row.json() for row in rows]
        self._vectors.write(vectors_ND.tobytes())
        for row, line in zip(rows, lines, strict=True):
            self._lines.write(line)
            self._record(row, len(line))

    def _record(self, row: Row, size: int) -> None:
        self._offsets.append(self._offsets[-1] + size)
        self.keys.append(row.key)
        self.counts[row.tower] += 1
        self.parents.append(key_of(row.tower, row.parent) if row.parent else -1)

    def flush(self) -> Committed:
        """Flushes everything to disk, and returns what is there."""
        for stream in (self._lines, self._vectors):
            stream.flush()
        return Committed(len(self.keys), self._offsets[-1], self._files)

    def media(self, suffix: str, data: bytes) -> str:
        """Saves a media file, and returns its name for :attr:`Row.file`."""
        name = self._media_name(suffix)
        (self.folder / MEDIA / name).write_bytes(data)
        return name

    def media_of(self, path: Path) -> str:
        """Takes over a media file, by a hard link where the file system has them, and returns its new name."""
        name = self._media_name(path.suffix)
        try:
            os.link(path, self.folder / MEDIA / name)
        except OSError:
            shutil.copyfile(path, self.folder / MEDIA / name)
        return name

    def _media_name(self, suffix: str) -> str:
        name = f"{self._files // 1000:04d}/{self._files:07d}{suffix}"
        self._files += 1
        (self.folder / MEDIA / name).parent.mkdir(parents=True, exist_ok=True)
        return name

    def close(self) -> None:
        """Closes the files. Errors of a full disk are ignored, as :meth:`finish` has raised them."""
        for stream in (self._lines, self._vectors):
            with suppress(OSError):
                stream.file.close()

    def finish(self) -> None:
        """Flushes everything to disk and writes the metadata. Nothing can be added afterwards."""
        if self._lines.file.closed:
            return
        sums = {VECTORS: self._vectors.finish(), "rows.jsonl": self._lines.finish()}
        arrays = {"rows.npy": np.array(self._offsets, np.int64)}
        for name, keys in (("keys", self.keys), ("parents", self.parents)):
            ordered = np.array(keys, np.int64).argsort(kind="stable")
            arrays[f"{name}.npy"] = np.array(keys, np.int64)[ordered]
            arrays[f"{name}-places.npy"] = ordered.astype(np.int64)
        for name, values in arrays.items():
            data = array_bytes(values)
            write_flushed(self.folder / name, data)
            sums[name] = Sum.of(data)
        files = {name: checksum.__dict__ for name, checksum in sums.items()}
        metadata = {"model": self.model.plain(), "count": len(self.keys), "files": files}
        write_flushed(self.folder / "collection.json", METADATA.encode(metadata))
        flush_folder(self.folder)


class _ChecksummedFile:
    """A file that is written sequentially, with its checksum.

    Args:
        path: the file.
        size: of the content to keep.

    Raises:
        OSError: the file is missing or shorter.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.file: BinaryIO = path.open("r+b" if size else "wb")
        self._digest, self._size = hashlib.sha256(), size
        while size:
            block = self.file.read(min(size, 1 << 20))
            if not block:
                self.file.close()
                raise OSError(errno.EIO, "it is shorter than it was", str(path))
            self._digest.update(block)
            size -= len(block)
        self.file.seek(self._size)
        self.file.truncate()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def flush(self) -> None:
        """Flushes the file to disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> Sum:
        """Flushes the file to disk and closes it."""
        self.flush()
        self.file.close()
        return Sum(self._size, self._digest.hexdigest())


@contextmanager
def writing(folder: Path, model: Model) -> Iterator[Writer]:
    """Writes a collection atomically. After an error, nothing of it is left.

    Raises:
        UserError: the folder exists, another process is writing it, or the disk is full.
    """
    with explained(folder), drafting(folder) as draft:
        writer = Writer(draft, model)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def mapped_vectors(folder: Path, dim: int, remedy: str = REMEDY) -> np.ndarray:
    """(N, D) the vectors in a folder, memory-mapped.

    Raises:
        UserError: the file size is not a multiple of the vector size.
    """
    path = folder / VECTORS
    count, rest = divmod(os.path.getsize(path), 4 * dim)
    if rest:
        raise UserError(f"{path} is damaged: it ends within a vector of {dim} numbers; {remedy}")
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, np.float32, "r", shape=(count, dim)) if count else np.zeros((0, dim), np.float32))


def _mapped(path: Path, remedy: str) -> np.ndarray:
    return read_array(path, np.int64, 1, remedy, mapped=True)
