"""A segment of an index: vectors of one part and level with their rows, a structure, and what was removed of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt

from ..core.errors import UserError
from ..data.atomic_files import flush_folder, write_flushed
from ..data.storage import Sum, array_bytes, read_array
from .collection import CHECKED_UP_TO, Collection
from .neighbours import REMEDY, STRUCTURE, Kind, Neighbours
from .rows import Row


@dataclass(frozen=True)
class Entry:
    """A segment, as the manifest names it.

    Args:
        name: of its folder.
        part: of all its rows.
        level: of all its rows; empty for whole samples.
        count: vectors.
        kind: of the structure.
        removed: the file with the places that were removed; empty for none.
        sums: of that file and of the structure's, by name.
    """

    name: str
    part: str
    level: str
    count: NonNegativeInt
    kind: Kind
    removed: str = ""
    sums: Mapping[str, Sum] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """The files that have sums."""
        return {self.removed} - {""} | ({STRUCTURE} if self.kind != "flat" else set())

    def summed(self, index: Path) -> Entry:
        """With a sum of each of its files, which entries of the first schema lack, and of no other.

        Args:
            index: the folder of the index.
        """
        sums = {name: self.sums.get(name) or Sum.of_file(index / self.name / name) for name in self.files}
        return replace(self, sums=sums)


@dataclass(frozen=True)
class Hit:
    """An answer.

    Args:
        score: the inner product with the query.
        row: what was found.
        media: the file that shows it, where there is one.
        inside: the best of the finer rows within it, best first, where they were asked for.
    """

    score: float
    row: Row
    media: Path | None = None
    inside: tuple[Hit, ...] = ()


class Segment:
    """A segment that is open.

    Args:
        folder: where it lies.
        entry: what the manifest says of it.
        before: the same segment as it was opened before; its files but for the removals are not read again.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, folder: Path, entry: Entry, before: Segment | None = None) -> None:
        self.entry = entry
        self.collection: Collection = before.collection if before else Collection(folder, REMEDY)
        if len(self.collection) != entry.count:
            raise UserError(f"{folder} is damaged: {len(self.collection)} vectors, not {entry.count}; {REMEDY}")
        if before is None:
            self._check_structure(content=False)
        self.removed = self._removals()
        self.neighbours = Neighbours(self.collection.vectors_ND, entry.kind, folder, self.removed)

    def verify(self) -> None:
        """Compares all files with their checksums.

        Raises:
            UserError: a file is damaged; names it.
        """
        self.collection.verify()
        self._check_structure(content=True)
        self._removals()

    def _check_structure(self, *, content: bool) -> None:
        if (expected := self.entry.sums.get(STRUCTURE)) is not None:
            small = expected.bytes <= CHECKED_UP_TO
            expected.check(self.collection.folder / STRUCTURE, REMEDY, content=content or small)

    def _removals(self) -> np.ndarray:
        """(R,) the places that were removed, ascending."""
        if not self.entry.removed:
            return np.zeros(0, np.int64)
        path = self.collection.folder / self.entry.removed
        if (expected := self.entry.sums.get(self.entry.removed)) is not None:
            expected.check(path, REMEDY)
        found = read_array(path, np.int64, 1, REMEDY)
        if len(found) and not (found[0] >= 0 and found[-1] < self.entry.count and (np.diff(found) > 0).all()):
            raise UserError(f"{path} is damaged: it names rows that are not there; {REMEDY}")
        return found

    def hit(self, place: int, score: float) -> Hit:
        """The answer at a place."""
        row = self.collection.row(place)
        return Hit(float(score), row, self.collection.media(row))

    def living(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Places by fingerprint, without those that were removed."""
        found = self.collection.places_of(which, keys)
        alive = self.neighbours.alive_N
        kept = {key: [place for place in places if alive[place]] for key, places in found.items()}
        return {key: places for key, places in kept.items() if places}

    def without(self, places: set[int], name: str) -> Entry:
        """Writes which places are removed, some more than before, and gives the entry that says so.

        Args:
            places: of the rows that are removed now.
            name: of the file.
        """
        data = array_bytes(np.array(sorted({*self.removed.tolist(), *places}), np.int64))
        write_flushed(self.collection.folder / name, data)
        flush_folder(self.collection.folder)
        return replace(self.entry, removed=name, sums={**self.entry.sums, name: Sum.of(data)})
