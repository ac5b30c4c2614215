"""A segment of an index: the vectors of one tower and level with their rows, a search structure, and removals.

Shapes: N vectors of the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AliasChoices, Field, NonNegativeInt

from ..core.errors import UserError
from ..data.atomic_files import flush_folder, write_flushed
from ..data.storage import Sum, array_bytes, read_array
from .collection import CHECKED_UP_TO, Collection
from .columns import Column, matching, read_columns
from .lexical import Words
from .neighbours import FILES, REMEDY, Kind, Mask, Neighbours, Tuning
from .rows import Row
from .where import Where

CONTENTS = "contents.npy"
"""Fingerprints of the vectors and media of samples, by which equal ones are told."""
CACHED_FILTERS = 8
"""Filters whose matches are remembered."""
CACHED_COLUMNS = 16
"""Columns that are kept for filters, the latest."""


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
        tuning: of inverted lists.
        contents: whether it has :data:`CONTENTS`; segments of samples have, since schema 3.
    """

    name: str
    tower: Annotated[str, Field(validation_alias=AliasChoices("tower", "part"))]
    level: str
    count: NonNegativeInt
    kind: Kind
    removed: str = ""
    sums: Mapping[str, Sum] = field(default_factory=dict)
    tuning: Tuning | None = None
    contents: bool = False

    @property
    def files(self) -> set[str]:
        """The files with checksums."""
        return {self.removed} - {""} | FILES[self.kind] | ({CONTENTS} if self.contents else set())

    def with_checksums(self, index: Path) -> Entry:
        """A copy with the checksums of exactly its files, which entries of schema 1 lack.

        Args:
            index: the folder of the index.
        """
        sums = {name: self.sums.get(name) or Sum.of_file(index / self.name / name) for name in self.files}
        return replace(self, sums=sums)


@dataclass(frozen=True)
class Ranks:
    """Where a result of a hybrid search is among those by vectors and those by words.

    Args:
        vector: rank by vectors, from 1; ``None`` if it is not among those that were fused.
        words: rank by words, likewise.
        words_score: how well its texts match the query, 0 to 1.
    """

    vector: int | None
    words: int | None
    words_score: float = 0.0


@dataclass(frozen=True)
class Hit:
    """A search result.

    Args:
        score: inner product with the query.
        row: that matched.
        media: its media file, if any.
        inside: the best finer rows within it, best first, if requested.
        ranks: of a hybrid search; ``None`` for others.
    """

    score: float
    row: Row
    # A default of the class would be found before what __getattr__ reads.
    media: Path | None = field(default_factory=lambda: None)
    inside: tuple[Hit, ...] = ()
    ranks: Ranks | None = None

    @classmethod
    def stored(cls, score: float, segment: Segment, position: int) -> Hit:
        """The result for the row at a position of a segment, which is read when it is first asked for."""
        hit = object.__new__(cls)
        fields = hit.__dict__
        fields["score"], fields["inside"], fields["ranks"] = score, (), None
        fields["_segment"], fields["_position"] = segment, position
        return hit

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in ("row", "media") or "_segment" not in self.__dict__:
                raise AttributeError(f"a hit has no {name}")
            read = self._segment.collection.row if name == "row" else self._segment.media
            return self.__dict__.setdefault(name, read(self._position))


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
        self._words: Words | None = opened._words if opened else None
        self._columns: frozenset[str] | None = opened._columns if opened else None
        self.removed = self._removals()
        vectors_ND = self.collection.vectors_ND
        self.neighbours: Neighbours = (
            opened.neighbours if opened else Neighbours(vectors_ND, entry.kind, folder, entry.tuning)
        )
        self._read_columns: dict[str, Column] = opened._read_columns if opened else {}
        self._masks: dict[Where, Mask] = {}
        alive_N = np.ones(len(vectors_ND), bool)
        alive_N[self.removed] = False
        self.alive = Mask(alive_N)

    def __len__(self) -> int:
        """The number of rows that were not removed."""
        return self.alive.count

    def mask(self, where: Where | None, inherited: Callable[[Row], Mapping[str, str]]) -> Mask:
        """The rows that were not removed and that a filter allows.

        Args:
            where: the filter.
            inherited: gives the columns of the sample that a row is a piece of.
        """
        if where is None:
            return self.alive
        if (mask := self._masks.get(where)) is None:
            columns = self._columns_of({comparison.column for comparison in where.comparisons()}, inherited)
            mask = Mask(self.alive.allowed_N & matching(where.condition, columns))
            if len(self._masks) >= CACHED_FILTERS:
                self._masks = {}
            self._masks[where] = mask
        return mask

    def _columns_of(self, names: set[str], inherited: Callable[[Row], Mapping[str, str]]) -> dict[str, Column]:
        """The columns with some names. Rows are parsed for those that have not been read yet."""
        columns = {name: self._read_columns[name] for name in names & self._read_columns.keys()}
        if missing := names - columns.keys():
            read = read_columns(missing, self.collection.rows(), inherited)
            columns |= read
            # Others may search at the same time.
            self._read_columns = dict([*self._read_columns.items(), *read.items()][-CACHED_COLUMNS:])
        return columns

    def contents(self) -> np.ndarray:
        """(M, 2) fingerprints of vectors and media, ascending, and their positions."""
        if not self.entry.contents:
            return contents_of(
                fingerprints_of(self.collection, position, row) for position, row in enumerate(self.collection.rows())
            )
        return read_array(self.collection.folder / CONTENTS, np.int64, 2, REMEDY, mapped=True)

    def verify(self) -> None:
        """Verifies the checksums of all files.

        Raises:
            UserError: a file is damaged; names it.
        """
        self.collection.verify()
        Words.open(self.collection.folder, self.entry.count, REMEDY, content=True)
        self._check_structure(content=True)
        self._removals()

    def _check_structure(self, *, content: bool) -> None:
        for name in self.entry.files - {self.entry.removed}:
            if (expected := self.entry.sums.get(name)) is not None:
                small = expected.bytes <= CHECKED_UP_TO
                expected.check(self.collection.folder / name, REMEDY, content=content or small)

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

    @property
    def words(self) -> Words:
        """The words of all rows. Segments of earlier versions have no file of them; they are indexed in memory.

        Raises:
            UserError: a file is damaged.
        """
        if self._words is None:
            words = Words.open(self.collection.folder, self.entry.count, REMEDY)
            self._words = words if words is not None else Words.of(self.collection.rows())
        return self._words

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns of ``info`` of all rows."""
        if self._columns is None:
            self._columns = frozenset(name for row in self.collection.rows() for name in row.info)
        return self._columns

    def hit(self, position: int, score: float) -> Hit:
        """The result for the row at a position."""
        return Hit.stored(score, self, position)

    def media(self, position: int) -> Path | None:
        """The media file of the row at a position, if any."""
        return self.collection.media(self.collection.row(position))

    def living(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Positions by fingerprint, as :meth:`Collection.positions_of`, without removed rows."""
        positions = self.collection.positions_of(which, keys)
        alive = self.alive.allowed_N
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


def fingerprints_of(collection: Collection, position: int, row: Row) -> list[int]:
    """Fingerprints of the vector of a row, and of its media file if any, whose lowest bit differs."""
    fingerprints = [_fingerprint(collection.vectors_ND[position].tobytes()) & ~1]
    if (path := collection.media(row)) is not None:
        fingerprints.append(_fingerprint(path.read_bytes()) | 1)
    return fingerprints


def contents_of(fingerprints: Iterable[Sequence[int]]) -> np.ndarray:
    """(M, 2) fingerprints of rows, ascending, and the positions of their rows."""
    pairs = [(fingerprint, position) for position, several in enumerate(fingerprints) for fingerprint in several]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _fingerprint(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1
