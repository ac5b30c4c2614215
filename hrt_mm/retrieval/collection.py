"""A collection: vectors and their rows in a folder, written whole or not at all, and opened by memory map.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import drafting, explained, flush_folder, write_flushed
from ..data.storage import Format, Sum, array_bytes, read_array
from .rows import LONGEST, Model, Row, key_of, not_comparable

REMEDY = "restore it from a copy, or embed it again with `hrt-mm embed`"
ABOUT = Format("a collection of vectors, as `hrt-mm embed` writes one", REMEDY)
VECTORS = "vectors.f32"
"""The vectors, one after another, without a header."""
MEDIA = "media"
"""The folder of a collection's pictures and sounds."""
FILES = (VECTORS, "rows.jsonl", "rows.npy", "keys.npy", "keys-places.npy", "parents.npy", "parents-places.npy")
"""What a collection consists of, beside ``collection.json`` and media."""
CHECKED_UP_TO = 256 << 20
"""Bytes of a collection whose files are read and compared with their checksums when it is opened. A larger one opens
by the files' sizes alone, and :meth:`Collection.verify` reads them."""

BLOCK = 65_536
"""Vectors that are read at once."""


@dataclass(frozen=True)
class _About:
    """What ``collection.json`` holds; the first schema had no sums."""

    model: Model
    count: NonNegativeInt
    files: dict[str, Sum] = field(default_factory=dict)


_KIND = TypeAdapter(_About)


class Collection:
    """A folder of vectors, opened to be read.

    Args:
        folder: where it lies.
        remedy: what to do about a damaged one, for messages.

    Attributes:
        checked: whether all files were compared with their checksums, as a small collection's are.

    Raises:
        UserError: it is no collection, or it is damaged.
    """

    checked: bool

    def __init__(self, folder: Path, remedy: str = REMEDY) -> None:
        self.folder, self._remedy = folder, remedy
        path, kind = folder / "collection.json", replace(ABOUT, remedy=remedy)
        value = kind.read(path)
        about = kind.check(path, value, _KIND)
        if value["schema"] > 1 and about.files.keys() != set(FILES):
            raise kind.damaged(path, f"files: it must name {', '.join(FILES)}")
        self.model, self._sums = about.model, about.files
        self._check(content=sum(own.bytes for own in self._sums.values()) <= CHECKED_UP_TO)
        try:
            self.vectors_ND = mapped_vectors(folder, self.model.dim, remedy)
            self._lines = _mapped(folder / "rows.npy", self._remedy)
            size = os.path.getsize(folder / "rows.jsonl")
        except OSError as error:
            raise UserError(f"{folder} is damaged: {error}; {self._remedy}") from error
        if not len(self.vectors_ND) == len(self._lines) - 1 == about.count or self._lines[-1] != size:
            raise UserError(
                f"{folder} is damaged: {len(self.vectors_ND)} vectors, {len(self._lines) - 1} rows in {size} bytes, "
                f"and it should have {about.count}; {self._remedy}"
            )

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def verify(self) -> None:
        """Compares every file with its checksum, however large. A collection of the first schema has none.

        Raises:
            UserError: a file is damaged; names it.
        """
        self._check(content=True)
        self.fingerprints()
        for _ in self.rows():
            pass
        for first in range(0, len(self), BLOCK):
            place, reason = not_comparable(self.vectors_ND[first : first + BLOCK])
            if reason:
                raise UserError(f"{self.folder / VECTORS} is damaged: vector {first + place} {reason}; {self._remedy}")

    def _check(self, *, content: bool) -> None:
        for name, expected in self._sums.items():
            expected.check(self.folder / name, self._remedy, content=content)
        self.checked = content

    def row(self, place: int) -> Row:
        """One row."""
        return next(self.chosen([place]))

    def chosen(self, places: Iterable[int]) -> Iterator[Row]:
        """The rows at some places."""
        path = self.folder / "rows.jsonl"
        with path.open("rb") as file:
            for place in places:
                first, last = int(self._lines[place]), int(self._lines[place + 1])
                if not 0 <= first < last <= first + LONGEST:
                    raise UserError(f"{self.folder / 'rows.npy'} is damaged at row {place}; {self._remedy}")
                file.seek(first)
                yield Row.of(file.read(last - first), f"{path}, row {place}")

    def fingerprints(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the fingerprints of all ids, ascending, and (N,) the places that they are at."""
        return self._keys("keys")

    def places_of(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Places of rows by the fingerprint of their id (``keys``) or of their parent's (``parents``)."""
        known, places = self._keys(which)
        wanted = np.array(list(keys), np.int64)
        first, last = np.searchsorted(known, wanted, "left"), np.searchsorted(known, wanted, "right")
        return {
            int(key): [int(place) for place in places[low:high]]
            for key, low, high in zip(wanted, first, last, strict=True)
            if high > low
        }

    def _keys(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted[which]

    @cached_property
    def _sorted(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By kind of fingerprint, (N,) them in ascending order and (N,) the places that they are at."""
        found = {}
        for which in ("keys", "parents"):
            known, places = (_mapped(self.folder / f"{which}{end}.npy", self._remedy) for end in ("", "-places"))
            if not len(known) == len(places) == len(self):
                raise UserError(f"{self.folder / which}.npy is damaged: it is of {len(known)} rows; {self._remedy}")
            if len(self) and not 0 <= int(places.min()) <= int(places.max()) < len(self):
                raise UserError(
                    f"{self.folder / which}-places.npy is damaged: it leads out of the rows; {self._remedy}"
                )
            found[which] = known, places
        return found

    def rows(self) -> Iterator[Row]:
        """All rows in order."""
        with (self.folder / "rows.jsonl").open("rb") as file:
            for place, line in enumerate(file):
                yield Row.of(line, f"{self.folder / 'rows.jsonl'}, row {place}")

    def media(self, row: Row) -> Path | None:
        """The file that shows a row, where it has one that lies in the collection's own folder."""
        if not row.file or "\0" in row.file:
            return None
        inside = (self.folder / MEDIA).resolve()
        path = (inside / row.file).resolve()
        return path if path.is_relative_to(inside) and path.is_file() else None


class Writer:
    """Takes vectors and rows, which go to the disk as they come: there may be more than memory holds.

    Args:
        folder: written into; it exists.
        model: whose vectors they are.
    """

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder, self.model = folder, model
        self.keys: list[int] = []
        self.parents: list[int] = []
        self.counts: Counter[str] = Counter()
        self._files = 0
        self._offsets = [0]
        self._lines = _Stream(folder / "rows.jsonl")
        self._vectors = _Stream(folder / VECTORS)

    def add(self, vectors_ND: np.ndarray, rows: Sequence[Row]) -> None:
        """Adds vectors with their rows; all of them or, where there is an error, none.

        Raises:
            UserError: their numbers or the width do not agree, a vector is not finite, or a row cannot be written.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if vectors_ND.shape != (len(rows), self.model.dim):
            raise UserError(f"{len(rows)} rows of width {self.model.dim} got vectors of shape {vectors_ND.shape}")
        place, reason = not_comparable(vectors_ND)
        if reason:
            raise UserError(f"the vector of {rows[place].id!r} {reason}")
        lines = [row.json() for row in rows]
        self._vectors.write(vectors_ND.tobytes())
        for row, line in zip(rows, lines, strict=True):
            self._lines.write(line)
            self._offsets.append(self._offsets[-1] + len(line))
            self.keys.append(row.key)
            self.counts[row.part] += 1
            self.parents.append(key_of(row.part, row.parent) if row.parent else -1)

    def media(self, suffix: str, data: bytes) -> str:
        """Keeps a file that shows a row; gives its name."""
        name = f"{self._files // 1000:04d}/{self._files:07d}{suffix}"
        self._files += 1
        path = self.folder / MEDIA / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def close(self) -> None:
        """Closes its files. What a full disk does not take is dropped: :meth:`finish` has said so."""
        for stream in (self._lines, self._vectors):
            with suppress(OSError):
                stream.file.close()

    def finish(self) -> None:
        """Waits until the disk has all of it, and says what it is. Nothing can be added after it."""
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
        files = {name: own.__dict__ for name, own in sums.items()}
        about = {"model": self.model.plain(), "count": len(self.keys), "files": files}
        write_flushed(self.folder / "collection.json", ABOUT.encode(about))
        flush_folder(self.folder)


class _Stream:
    """A file that is written from its beginning to its end, and its sum."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def finish(self) -> Sum:
        """Waits until the disk has it, and closes it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return Sum(self._size, self._digest.hexdigest())


@contextmanager
def writing(folder: Path, model: Model) -> Iterator[Writer]:
    """Writes a collection aside, and puts it in its place once it is whole. After an error nothing of it is left.

    Raises:
        UserError: there is something in its place, another process is writing it, or the disk is full.
    """
    with explained(folder), drafting(folder) as draft:
        writer = Writer(draft, model)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def mapped_vectors(folder: Path, dim: int, remedy: str = REMEDY) -> np.ndarray:
    """(N, D) the vectors in a folder, mapped.

    Raises:
        UserError: the file is no multiple of their width.
    """
    path = folder / VECTORS
    count, rest = divmod(os.path.getsize(path), 4 * dim)
    if rest:
        raise UserError(f"{path} is damaged: it ends within a vector of {dim} numbers; {remedy}")
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, np.float32, "r", shape=(count, dim)) if count else np.zeros((0, dim), np.float32))


def _mapped(path: Path, remedy: str) -> np.ndarray:
    return read_array(path, np.int64, 1, remedy, mapped=True)
