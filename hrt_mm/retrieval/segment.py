"""A segment of an index: the vectors of one tower and level with their rows, a search structure, and removals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AliasChoices, Field, NonNegativeInt

from ..core.errors import UserError
from ..data.atomic_files import flush_folder, write_flushed
from ..data.storage import Sum, array_bytes, read_array
from .collection import CHECKED_UP_TO, Collection
from .neighbours import REMEDY, STRUCTURE, Kind, Neighbours
from .rows import Row


@dataclass(frozen=True)
class Entry:
    """The entry of a segment in the manifest.

    Args:
        name: of its folder.
        tower: of all its rows; called ``part`` before schema 3.
        level: of all its rows; empty for samples.
        count: number of vectors.
        kind: of the search structure.
        removed: file with the positions of removed rows; empty if there are none.
        sums: checksums of that file and of the structure, by name.
    """

    name: str
    tower: Annotated[str, Field(validation_alias=AliasChoices("tower", "part"))]
    level: str
    count: NonNegativeInt
    kind: Kind
    removed: str = ""
    sums: Mapping[str, Sum] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """The files with checksums."""
        return {self.removed} - {""} | ({STRUCTURE} if self.kind != "flat" else set())

    def with_checksums(self, index: Path) -> Entry:
        """A copy with the checksums of exactly its files, which entries of schema 1 lack.

        Args:
            index: the folder of the index.
        """
        sums = {name: self.sums.get(name) or Sum.of_file(index / self.name / name) for name in self.files}
        return replace(self, sums=sums)


@dataclass(frozen=True)
class Hit:
    """A search result.

    Args:
        score: inner product with the query.
        row: that matched.
        media: its media file, if any.
        inside: the best finer rows within it, best first, if requested.
    """

    score: float
    row: Row
    media: Path | None = None
    inside: tuple[Hit, ...] = ()


class Segment:
    """An open segment.

    Args:
        folder: of the segment.
        entry: in the manifest.
        opened: the same segment if it is open already; only its removals are read again.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, folder: Path, entry: Entry, opened: Segment | None = None) -> None:
        self.entry = entry
        self.collection: Collection = opened.collection if opened else Collection(folder, REMEDY)
        if len(self.collection) != entry.count:
            raise UserError(f"{folder} is damaged: {len(self.collection)} vectors, not {entry.count}; {REMEDY}")
        if opened is None:
            self._check_structure(content=False)
        self.removed = self._removals()
        self.neighbours = Neighbours(self.collection.vectors_ND, entry.kind, folder, self.removed)

    def verify(self) -> None:
        """Verifies the checksums of all files.

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
        """(R,) positions of removed rows, ascending."""
        if not self.entry.removed:
            return np.zeros(0, np.int64)
        path = self.collection.folder / self.entry.removed
        if (expected := self.entry.sums.get(self.entry.removed)) is not None:
            expected.check(path, REMEDY)
        positions = read_array(path, np.int64, 1, REMEDY)
        if len(positions) and not (
            positions[0] >= 0 and positions[-1] < self.entry.count and (np.diff(positions) > 0).all()
        ):
            raise UserError(f"{path} is damaged: it names rows that do not exist; {REMEDY}")
        return positions

    def hit(self, position: int, score: float) -> Hit:
        """The result for the row at a position."""
        row = self.collection.row(position)
        return Hit(float(score), row, self.collection.media(row))

    def living(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Positions by fingerprint, as :meth:`Collection.positions_of`, without removed rows."""
        positions = self.collection.positions_of(which, keys)
        alive = self.neighbours.alive_N
        living = {key: [index for index in indices if alive[index]] for key, indices in positions.items()}
        return {key: indices for key, indices in living.items() if indices}

    def without(self, positions: set[int], name: str) -> Entry:
        """Writes the removals, with some more than before, and returns the new manifest entry.

        Args:
            positions: of the rows to remove.
            name: of the file.
        """
        data = array_bytes(np.array(sorted({*self.removed.tolist(), *positions}), np.int64))
        write_flushed(self.collection.folder / name, data)
        flush_folder(self.collection.folder)
        return replace(self.entry, removed=name, sums={**self.entry.sums, name: Sum.of(data)})
