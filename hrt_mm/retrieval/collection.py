"""A collection: vectors and their rows in a folder, written whole or not at all, and opened by memory map.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..train.files import drafting, flush_folder, write_flushed
from .rows import Model, Row, key_of

SCHEMA = 1
VECTORS = "vectors.f32"
"""The vectors, one after another, without a header."""
MEDIA = "media"
"""The folder of a collection's pictures and sounds."""


class Collection:
    """A folder of vectors, opened to be read.

    Args:
        folder: where it lies.

    Raises:
        UserError: it is no collection, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = read_json(folder / "collection.json", "a collection of vectors, as `hrt-mm embed` writes one")
        try:
            self.model = Model(**about["model"])
            self.vectors_ND = mapped_vectors(folder, self.model.dim)
            self._lines = _mapped(folder / "rows.npy", np.int64, 1)
            size = os.path.getsize(folder / "rows.jsonl")
        except (KeyError, TypeError, OSError) as error:
            raise UserError(f"{folder} is damaged: {error}") from error
        if not len(self.vectors_ND) == len(self._lines) - 1 == about.get("count") or self._lines[-1] != size:
            raise UserError(
                f"{folder} is damaged: {len(self.vectors_ND)} vectors, {len(self._lines) - 1} rows in {size} bytes, "
                f"and it should have {about.get('count')}"
            )

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def row(self, place: int) -> Row:
        """One row."""
        return next(self.chosen([place]))

    def chosen(self, places: Iterable[int]) -> Iterator[Row]:
        """The rows at some places."""
        with (self.folder / "rows.jsonl").open("rb") as file:
            for place in places:
                first, last = int(self._lines[place]), int(self._lines[place + 1])
                file.seek(first)
                yield Row.of(file.read(last - first), f"{self.folder / 'rows.jsonl'}, row {place}")

    def fingerprints(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the fingerprints of all ids, ascending, and (N,) the places that they are at."""
        return _sorted_keys(self.folder, "keys")

    def rows(self) -> Iterator[Row]:
        """All rows in order."""
        with (self.folder / "rows.jsonl").open("rb") as file:
            for place, line in enumerate(file):
                yield Row.of(line, f"{self.folder / 'rows.jsonl'}, row {place}")

    def media(self, row: Row) -> Path | None:
        """The file that shows a row, where it has one that lies in the collection's own folder."""
        if not row.file:
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
        self._lines = (folder / "rows.jsonl").open("wb")
        self._vectors = (folder / VECTORS).open("wb")

    def add(self, vectors_ND: np.ndarray, rows: Sequence[Row]) -> None:
        """Adds vectors with their rows.

        Raises:
            UserError: their numbers or the width do not agree, or a vector is not finite.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if vectors_ND.shape != (len(rows), self.model.dim):
            raise UserError(f"{len(rows)} rows of width {self.model.dim} got vectors of shape {vectors_ND.shape}")
        if (bad := np.flatnonzero(~np.isfinite(vectors_ND).all(1))).size:
            raise UserError(f"the vector of {rows[bad[0]].id!r} is not finite")
        self._vectors.write(vectors_ND.tobytes())
        for row in rows:
            self._offsets.append(self._offsets[-1] + self._lines.write(row.json()))
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
        """Closes its files."""
        self._lines.close()
        self._vectors.close()

    def finish(self) -> None:
        """Waits until the disk has all of it, and says what it is. Nothing can be added after it."""
        if self._lines.closed:
            return
        for file in (self._lines, self._vectors):
            file.flush()
            os.fsync(file.fileno())
        self.close()
        save_array(self.folder / "rows.npy", np.array(self._offsets, np.int64))
        for name, keys in (("keys", self.keys), ("parents", self.parents)):
            ordered = np.array(keys, np.int64).argsort(kind="stable")
            save_array(self.folder / f"{name}.npy", np.array(keys, np.int64)[ordered])
            save_array(self.folder / f"{name}-places.npy", ordered.astype(np.int64))
        about = {"schema": SCHEMA, "model": self.model.plain(), "count": len(self.keys)}
        write_flushed(self.folder / "collection.json", json.dumps(about, indent=1).encode())
        flush_folder(self.folder)


@contextmanager
def writing(folder: Path, model: Model) -> Iterator[Writer]:
    """Writes a collection aside, and puts it in its place once it is whole.

    Raises:
        UserError: there is something in its place, or another process is writing it.
    """
    with drafting(folder) as draft:
        writer = Writer(draft, model)
        try:
            yield writer
            writer.finish()
        finally:
            with suppress(OSError):
                writer.close()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A small file of JSON that has our schema.

    Raises:
        UserError: it is missing, damaged, or of another version.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.parent} is not {what}: {path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else None
        raise UserError(f"{path} has schema {found!r}, this version reads {SCHEMA}")
    return value


def save_array(path: Path, values: np.ndarray) -> None:
    """Writes an array and waits until the disk has it."""
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def mapped_vectors(folder: Path, dim: int) -> np.ndarray:
    """(N, D) the vectors in a folder, mapped.

    Raises:
        UserError: the file is no multiple of their width.
    """
    path = folder / VECTORS
    count, rest = divmod(os.path.getsize(path), 4 * dim)
    if rest:
        raise UserError(f"{path} is damaged: it ends within a vector of {dim} numbers")
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, np.float32, "r", shape=(count, dim)) if count else np.zeros((0, dim), np.float32))


def _mapped(path: Path, dtype: Any, axes: int) -> np.ndarray:
    try:
        # An empty array cannot be mapped.
        found = np.load(path, mmap_mode="r" if os.path.getsize(path) > 256 else None, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if found.dtype != dtype or found.ndim != axes:
        raise UserError(f"{path} is damaged: it holds {found.dtype} of {found.ndim} axes")
    return np.asarray(found)


def _sorted_keys(folder: Path, which: str) -> tuple[np.ndarray, np.ndarray]:
    return _mapped(folder / f"{which}.npy", np.int64, 1), _mapped(folder / f"{which}-places.npy", np.int64, 1)


def places_of(folder: Path, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
    """Places of rows by the fingerprint of their id (``keys``) or of their parent's (``parents``)."""
    known, places = _sorted_keys(folder, which)
    wanted = np.array(list(keys), np.int64)
    first, last = np.searchsorted(known, wanted, "left"), np.searchsorted(known, wanted, "right")
    return {
        int(key): [int(place) for place in places[low:high]]
        for key, low, high in zip(wanted, first, last, strict=True)
        if high > low
    }
