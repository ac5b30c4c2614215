"""An index: collections that are searched together, in a folder that is updated atomically.

Vectors are stored in segments, each a folder with those of one tower and level. Adding writes new segments and then
replaces ``manifest.json``, so that readers, also after a crash, see the index either before or after the change. Many
small segments are merged into larger ones.

Shapes: Q queries, D width, K results.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import PositiveInt, TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import LOCK, exclusive_lock, explained, replace_file, write_flushed
from ..data.storage import Format, Sum, array_bytes
from .collection import BLOCK, MEDIA, Collection, mapped_vectors, writing
from .lexical import search_words, write_words
from .neighbours import FILES, REMEDY
from .rows import Model, Row, check_queries, check_query, key_of
from .segment import CONTENTS, Entry, Filter, Hit, Segment, contents_of, fingerprints_of
from .structures import SAMPLED, build

__all__ = ["Hit", "Index"]

T = TypeVar("T")
log = logging.getLogger(__name__)

MANIFEST = Format("an index, as `hrt-mm index build` makes one", REMEDY, schema=3)
RECALL = 0.99
"""Target recall of indexes."""
MERGED = 8
"""Number of segments from which they are merged."""
Source = tuple[Collection, Sequence[int]]
"""Rows of a collection, by position."""


@dataclass(frozen=True)
class _Manifest:
    """The content of ``manifest.json``. Segments have checksums since schema 2, and there is a target since 3."""

    model: Model
    segments: list[Entry]
    next: PositiveInt
    recall: float = RECALL


_MANIFEST_SCHEMA = TypeAdapter(_Manifest)


@dataclass(frozen=True)
class _Addition:
    """Rows of a collection to add, by tower and level.

    Args:
        collection: of the rows.
        groups: positions of the rows.
        fingerprints: of the contents of samples, by position.
    """

    collection: Collection
    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    fingerprints: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, collection: Collection) -> _Addition:
        """All rows of a collection."""
        addition = cls(collection)
        for position, row in enumerate(collection.rows()):
            addition.groups.setdefault((row.tower, row.level), []).append(position)
            if not row.level:
                addition.fingerprints[position] = fingerprints_of(collection, position, row)
        return addition

    def without(self, dropped: set[int]) -> _Addition:
        """A copy without some samples and their pieces."""
        keys = {self.collection.row(position).key for position in dropped}
        pending = list(keys)
        while pending:
            pieces = self.collection.positions_of("parents", pending)
            inner = {position for positions in pieces.values() for position in positions} - dropped
            dropped = dropped | inner
            pending = [self.collection.row(position).key for position in inner]
        groups = {
            group: kept
            for group, positions in self.groups.items()
            if (kept := [position for position in positions if position not in dropped])
        }
        return _Addition(self.collection, groups, self.fingerprints)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))


@dataclass(frozen=True)
class Group:
    """The rows of a tower and level.

    Args:
        tower: of the rows.
        level: of the rows; empty for samples.
        rows: their number.
        removed: number of removed rows whose space is not reclaimed.
        segments: number of segments.
        recall: measured recall of 10 neighbours; ``None`` if unmeasured.
        queries: number of queries that it was measured with; 0 if search is exact.
    """

    tower: str
    level: str
    rows: int
    removed: int
    segments: int
    recall: float | None
    queries: int

    @property
    def search(self) -> str:
        """How accurate search is, in words."""
        if not self.rows:
            return "nothing to search"
        if self.recall is None:
            return "recall is unmeasured; measure it with `hrt-mm index compact`"
        if not self.queries:
            return "search is exact"
        return f"search finds {self.recall:.1%} of the true 10 nearest, measured with {self.queries} queries"


class Index:
    """An open index.

    Args:
        folder: of the index.

    Raises:
        UserError: the folder is not an index, or it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.segments: list[Segment] = []
        self._stamp = (0, 0, 0)
        self._open()

    @classmethod
    def create(cls, folder: str | Path, model: Model, recall: float = RECALL) -> Index:
        """Creates an empty index.

        Args:
            folder: of the index; empty or missing.
            model: of the vectors.
            recall: share of the true 10 nearest neighbours that search in large segments must find; 1 for exact search.

        Raises:
            UserError: the folder is not empty, the disk is full, or the recall is not above 0 and up to 1.
        """
        folder = Path(folder)
        if not 0 < recall <= 1:
            raise UserError(f"the recall is {recall}; it must be above 0 and at most 1, which is exact search")
        with explained(folder), exclusive_lock(folder, create=True):
            if any(entry.name != LOCK for entry in folder.iterdir()):
                raise UserError(
                    f"{folder} is not empty; add to the index with `hrt-mm index add`, or choose another folder"
                )
            _write_manifest(folder, _Manifest(model, [], 1, recall))
        return cls(folder)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        collections: Sequence[Collection | str | Path],
        recall: float = RECALL,
        *,
        skip_duplicates: bool = False,
        queries: Collection | None = None,
    ) -> Index:
        """Builds an index of collections. If that fails, nothing of it is left.

        Args:
            folder: of the index; empty or missing.
            collections: one or more, of one model, or their folders.
            recall: share of the true 10 nearest neighbours that search in large segments must find; 1 for exact search.
            skip_duplicates: see :meth:`extend`.
            queries: see :meth:`extend`.

        Raises:
            UserError: the folder is not empty, the collections are of several models, an id is not unique, or the disk
                is full.
        """
        opened = [each if isinstance(each, Collection) else Collection(Path(each)) for each in collections]
        index = cls.create(folder, opened[0].model, recall)
        try:
            index.extend(opened, skip_duplicates=skip_duplicates, queries=queries)
        except BaseException:
            if not index.segments:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return index

    def _open(self) -> None:
        """Reads the manifest, and opens segments that are not open yet."""
        opened = {segment.entry.name: segment for segment in self.segments}
        while True:
            stamp = self._stamped()
            manifest = self._manifest()
            try:
                segments = [self._segment(entry, opened.get(entry.name)) for entry in manifest.segments]
            except UserError:
                # Another process may have replaced the manifest and removed files that the new one does not name.
                if self._manifest() != manifest:
                    continue
                raise
            break
        self.model, self._next, self.target, self.segments = manifest.model, manifest.next, manifest.recall, segments
        self._stamp = stamp

    def _segment(self, entry: Entry, opened: Segment | None = None) -> Segment:
        return opened if opened and opened.entry == entry else Segment(self.folder / entry.name, entry, opened)

    def _stamped(self) -> tuple[int, int, int]:
        """Changes whenever the manifest is replaced."""
        try:
            status = os.stat(self.folder / "manifest.json")
        except OSError:
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def refresh(self) -> bool:
        """Opens what was added, removed or merged since, also by other processes. Each search does so first.

        Returns:
            Whether there was anything.

        Raises:
            UserError: the index is gone, or it is damaged.
        """
        if self._stamped() == self._stamp:
            return False
        self._open()
        return True

    def _manifest(self) -> _Manifest:
        path = self.folder / "manifest.json"
        value = MANIFEST.read(path)
        manifest = MANIFEST.check(path, value, _MANIFEST_SCHEMA)
        for entry in manifest.segments:
            if not entry.name or Path(entry.name).name != entry.name or Path(entry.removed).name != entry.removed:
                raise UserError(f"{path} names a file outside the index: {entry.name!r}")
            if value["schema"] > 1 and entry.sums.keys() != entry.files:
                raise MANIFEST.damaged(path, f"{entry.name} has sums of {', '.join(sorted(entry.sums)) or 'no file'}")
        return manifest

    def verify(self) -> None:
        """Verifies the checksum of every file, except media.

        Raises:
            UserError: a file is damaged; names it.
        """
        for segment in self.segments:
            segment.verify()

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def towers(self) -> dict[str, int]:
        """Number of samples of each tower."""
        counts: dict[str, int] = {}
        for segment in self.segments:
            if not segment.entry.level and len(segment):
                counts[segment.entry.tower] = counts.get(segment.entry.tower, 0) + len(segment)
        return counts

    @property
    def levels(self) -> set[str]:
        """The levels of which the index has pieces."""
        return {segment.entry.level for segment in self.segments if segment.entry.level}

    def recall(self, tower: str, level: str = "") -> float | None:
        """The measured recall of 10 neighbours by default: 1 if search is exact.

        It is measured when a segment is written, with rows of the segment and of other towers as queries, and
        averaged over segments by their rows.

        Args:
            tower: of the rows.
            level: of the rows; samples if empty.

        Returns:
            The share of true neighbours; ``None`` if an earlier version of the package wrote a segment, without
            measuring, or if there are no rows.
        """
        return _recall(self._groups().get((tower, level), []))

    def groups(self) -> list[Group]:
        """The rows of each tower and level, and how accurate search among them is."""
        groups = []
        for (tower, level), segments in self._groups().items():
            rows, removed = sum(map(len, segments)), sum(len(segment.removed) for segment in segments)
            queries = sum(segment.entry.tuning.queries for segment in segments if segment.entry.tuning)
            groups.append(Group(tower, level, rows, removed, len(segments), _recall(segments), queries))
        return groups

    def add(self, collection: Collection, *, skip_duplicates: bool = False, queries: Collection | None = None) -> int:
        """Adds a collection, in new segments; see :meth:`extend`."""
        return self.extend([collection], skip_duplicates=skip_duplicates, queries=queries)

    def extend(
        self,
        collections: Sequence[Collection],
        *,
        skip_duplicates: bool = False,
        queries: Collection | None = None,
    ) -> int:
        """Adds several collections, either all or none, in new segments.

        Samples with the same vector or the same media file as another of their tower are logged. When eight or more of
        the latest segments of a tower and level can be merged so that none is more than half of the result, they are:
        a row is written again at most once for each doubling.

        Args:
            collections: of the same model.
            skip_duplicates: leave out samples, with their pieces, whose content the index or an earlier row has.
            queries: vectors like those of searches, to measure recall with. By default, samples of other towers in the
                index, and the rows themselves.

        Returns:
            The number of vectors added.

        Raises:
            UserError: a collection is of another model, an id is not unique, another process is writing, or the disk
                is full. The index is unchanged.
        """
        for collection in [*collections, *([queries] if queries else [])]:
            self.model.check(collection.model, str(collection.folder))
        for collection in collections:
            if not collection.checked:
                collection.verify()
        with self._writing():
            additions = self._without_duplicates([*map(_Addition.of, collections)], skip=skip_duplicates)
            self._check_new(additions)
            entries = [segment.entry for segment in self.segments]
            for addition in additions:
                for (tower, level), positions in addition.groups.items():
                    entries.append(
                        self._write(
                            tower,
                            level,
                            [(addition.collection, positions)],
                            [addition.fingerprints[position] for position in positions] if not level else None,
                            queries.vectors_ND if queries else self._queries(tower, additions),
                        )
                    )
            self._commit(entries)
            self._open()
            try:
                self._merge_small()
            except (UserError, OSError) as error:
                # The addition is complete without it.
                log.warning("%s: segments were not merged: %s", self.folder, error)
        return sum(map(len, additions))

    def _queries(self, tower: str, additions: Sequence[_Addition] = ()) -> np.ndarray:
        """(Q, D) vectors of samples of other towers, as searches for a tower may have."""
        sources: list[Source] = [
            (segment.collection, segment.alive.positions.tolist())
            for segment in self.segments
            if segment.entry.tower != tower and not segment.entry.level
        ]
        for addition in additions:
            sources += [
                (addition.collection, positions)
                for (other, level), positions in addition.groups.items()
                if other != tower and not level
            ]
        total = sum(len(positions) for _, positions in sources)
        step = max(1, total // SAMPLED)
        chosen = [collection.vectors_ND[np.array(positions[::step], np.int64)] for collection, positions in sources]
        return np.concatenate([np.zeros((0, self.model.dim), np.float32), *chosen])

    def _write(
        self,
        tower: str,
        level: str,
        sources: Sequence[Source],
        fingerprints: Iterable[Sequence[int]] | None,
        queries_QD: np.ndarray,
        *,
        merged: bool = False,
    ) -> Entry:
        """Writes a segment.

        Args:
            tower: of all rows.
            level: of all rows.
            sources: of the rows.
            fingerprints: of the contents of the rows; none for pieces.
            queries_QD: to measure recall with.
            merged: whether the sources are segments of this index.
        """
        name = f"segment-{self._next:06d}"
        self._next += 1
        with writing(self.folder / name, self.model) as writer:
            for collection, positions in sources:
                names: dict[str, str] = {}
                for first in range(0, len(positions), BLOCK):
                    block = positions[first : first + BLOCK]
                    rows = []
                    for row in collection.rows_at(block):
                        path = collection.media(row)
                        if merged and row.file:
                            # Segments have media of equal names.
                            if row.file not in names:
                                names[row.file] = writer.media_of(path) if path else ""
                            row = replace(row, file=names[row.file])
                        elif path is not None:
                            copy = writer.folder / MEDIA / row.file
                            copy.parent.mkdir(parents=True, exist_ok=True)
                            shutil.copyfile(path, copy)
                        rows.append(row)
                    writer.add(collection.vectors_ND[block], rows)
            writer.finish()
            write_words(writer.folder, Collection(writer.folder).rows())
            kind, tuning = build(mapped_vectors(writer.folder, self.model.dim), writer.folder, self.target, queries_QD)
            files = set(FILES[kind])
            if fingerprints is not None:
                write_flushed(writer.folder / CONTENTS, array_bytes(contents_of(fingerprints)))
                files.add(CONTENTS)
            sums = {file: Sum.of_file(writer.folder / file) for file in files}
        count = sum(len(positions) for _, positions in sources)
        return Entry(name, tower, level, count, kind, sums=sums, tuning=tuning, contents=fingerprints is not None)

    def compact(self) -> tuple[int, int]:
        """Merges the segments of each tower and level, and drops removed rows with their media.

        Segments of earlier versions of the package get the structures of this one. Readers see the index before or
        after it, and so does a process that opens it after a kill.

        Returns:
            The number of segments before and after.

        Raises:
            UserError: another process is writing, or the disk is full. The index is unchanged.
        """
        with self._writing():
            before = len(self.segments)
            entries = []
            for group in self._groups().values():
                current = group[0].entry.kind not in ("hnsw", "ivf") and (
                    group[0].entry.contents or group[0].entry.level
                )
                if len(group) > 1 or len(group[0].removed) or not current:
                    entries += self._merged(group)
                else:
                    entries.append(group[0].entry)
            self._commit(entries)
        return before, len(self.segments)

    def _groups(self) -> dict[tuple[str, str], list[Segment]]:
        """Segments by tower and level."""
        groups: dict[tuple[str, str], list[Segment]] = {}
        for segment in self.segments:
            groups.setdefault((segment.entry.tower, segment.entry.level), []).append(segment)
        return groups

    def _merged(self, segments: Sequence[Segment]) -> list[Entry]:
        """The entry of a segment with the remaining rows of several; none if no row remains."""
        tower, level = segments[0].entry.tower, segments[0].entry.level
        sources = [(segment.collection, segment.alive.positions.tolist()) for segment in segments if len(segment)]
        if not sources:
            return []
        fingerprints = None if level else [each for segment in segments for each in _living_contents(segment)]
        return [self._write(tower, level, sources, fingerprints, self._queries(tower), merged=True)]

    def _merge_small(self) -> None:
        """Merges the latest segments of each tower and level."""
        merged: dict[str, list[Entry]] = {}
        for group in self._groups().values():
            counts = [len(segment) for segment in group]
            first = next(
                (first for first in range(len(group) - MERGED + 1) if 2 * max(counts[first:]) <= sum(counts[first:])),
                None,
            )
            if first is not None:
                merged |= {segment.entry.name: [] for segment in group[first:]}
                merged[group[first].entry.name] = self._merged(group[first:])
        if merged:
            self._commit([entry for each in self.segments for entry in merged.get(each.entry.name, [each.entry])])

    def _without_duplicates(self, additions: list[_Addition], *, skip: bool) -> list[_Addition]:
        """Reports samples whose content another one of their tower has, and drops them if requested."""
        contents = {
            tower: [
                (segment, segment.contents())
                for segment in self.segments
                if segment.entry.tower == tower and not segment.entry.level
            ]
            for tower in {tower for addition in additions for tower, level in addition.groups if not level}
        }
        seen: dict[tuple[str, int], str] = {}
        duplicates: list[tuple[str, str]] = []
        kept = []
        for addition in additions:
            dropped = set()
            for position, fingerprints in addition.fingerprints.items():
                row = addition.collection.row(position)
                first = next((seen[row.tower, each] for each in fingerprints if (row.tower, each) in seen), None)
                if first is None:
                    first = _same_content(contents[row.tower], fingerprints)
                if first is None:
                    seen |= dict.fromkeys(((row.tower, each) for each in fingerprints), row.id)
                else:
                    duplicates.append((row.id, first))
                    dropped.add(position)
            kept.append(addition.without(dropped) if skip and dropped else addition)
        if duplicates:
            names = ", ".join(f"{name!r} as {first!r}" for name, first in duplicates[:3])
            more = ", and others" if len(duplicates) > 3 else ""
            left_out = ", left out" if skip else ""
            log.warning("duplicates by vector or media file%s: %d (%s%s)", left_out, len(duplicates), names, more)
        return kept

    def _check_new(self, additions: Sequence[_Addition]) -> None:
        seen: set[int] = set()
        for addition in additions:
            collection = addition.collection
            kept_N = np.zeros(len(collection), bool)
            for positions_of_group in addition.groups.values():
                kept_N[positions_of_group] = True
            keys, positions = collection.fingerprints()
            keys, positions = keys[kept_N[positions]], positions[kept_N[positions]]
            if (duplicates := np.flatnonzero(keys[1:] == keys[:-1])).size:
                row = collection.row(int(positions[duplicates[0]]))
                raise UserError(
                    f"{collection.folder} has two rows of tower {row.tower!r} with id {row.id!r}; ids are unique"
                )
            existing = seen.intersection(keys.tolist())
            for segment in self.segments:
                existing |= segment.living("keys", keys).keys()
            if existing:
                first = sorted(positions[np.isin(keys, list(existing))].tolist())[:3]
                names = ", ".join(repr(row.id) for row in collection.rows_at(first))
                more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
                where = "that another collection has" if existing <= seen else "that the index has already"
                raise UserError(f"ids {where}: {names}{more}; remove them first, or give others")
            seen.update(keys.tolist())

    def remove(self, ids: Sequence[str], tower: str | None = None) -> int:
        """Removes samples with all of their pieces.

        Args:
            ids: of the samples.
            tower: of the samples; every tower if absent.

        Returns:
            The number of vectors removed.

        Raises:
            UserError: there is no such row; names the first.
        """
        with self._writing():
            towers = {segment.entry.tower for segment in self.segments} if tower is None else {tower}
            missing = set(ids)
            removed: dict[str, set[int]] = {}
            pending = [(tower_name, name) for tower_name in sorted(towers) for name in ids]
            while pending:
                keys = {key_of(*pair): pair for pair in pending}
                pending = []
                for segment in self.segments:
                    for which in ("keys", "parents"):
                        for key, positions in segment.living(which, list(keys)).items():
                            new_positions = set(positions) - removed.get(segment.entry.name, set())
                            removed.setdefault(segment.entry.name, set()).update(new_positions)
                            if which == "keys":
                                missing.discard(keys[key][1])
                            else:
                                pending += [
                                    (keys[key][0], segment.collection.row(position).id) for position in new_positions
                                ]
            if missing:
                raise UserError(f"the index has no row {sorted(missing)[0]!r}{f' of tower {tower!r}' if tower else ''}")
            self._commit([self._without(segment, removed.get(segment.entry.name, set())) for segment in self.segments])
        return sum(len(positions) for positions in removed.values())

    def _without(self, segment: Segment, positions: set[int]) -> Entry:
        return segment.without(positions, f"removed-{self._next:06d}.npy") if positions else segment.entry

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""
        for segment in self.segments:
            for positions in segment.living("keys", keys).values():
                yield from segment.collection.rows_at(positions)

    def media(self, key: int) -> Path | None:
        """The media file of the row with a key, if any."""
        for segment in self.segments:
            for position in segment.living("keys", [key]).get(key, []):
                if (path := segment.collection.media(segment.collection.row(position))) is not None:
                    return path
        return None

    def search(
        self,
        query_D: np.ndarray,
        k: int,
        *,
        tower: str | None = None,
        level: str = "",
        inside: int = 0,
        finer: Mapping[str, np.ndarray] | None = None,
        exact: bool = False,
        where: Filter | None = None,
    ) -> list[Hit]:
        """The nearest rows, best first; of equal ones those that were added first.

        Args:
            query_D: a vector of the index's model.
            k: maximum number of results.
            tower: of the results; any if absent.
            level: of the results; samples if empty.
            inside: number of finer rows to return within each result.
            finer: query vectors by level, for the finer rows. Levels without one are left out. If absent, ``query_D``
                is used for all levels.
            exact: compare all rows, also where :meth:`recall` is below 1.
            where: only rows that it matches.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        if finer is not None:
            finer = {name: check_query(finer_D, k, self.model.dim)[None] for name, finer_D in finer.items()}
        return self._search(query_D[None], k, tower, level, inside, finer, exact, where)[0]

    def search_many(
        self,
        queries_QD: np.ndarray,
        k: int,
        *,
        tower: str | None = None,
        level: str = "",
        inside: int = 0,
        finer: Mapping[str, np.ndarray] | None = None,
        exact: bool = False,
        where: Filter | None = None,
    ) -> list[list[Hit]]:
        """The results of several queries, each as :meth:`search` gives them; faster than one by one.

        Args:
            queries_QD: vectors of the index's model.
            k: as for :meth:`search`, and so are the others.
            tower: of the results.
            level: of the results.
            inside: number of finer rows.
            finer: (Q, D) query vectors by level.
            exact: compare all rows.
            where: only rows that it matches.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        queries_QD = check_queries(queries_QD, k, self.model.dim)
        if finer is not None:
            finer = {name: check_queries(finer_QD, k, self.model.dim) for name, finer_QD in finer.items()}
            for name, finer_QD in finer.items():
                if len(finer_QD) != len(queries_QD):
                    raise UserError(f"{len(queries_QD)} queries have {len(finer_QD)} vectors of level {name!r}")
        return self._search(queries_QD, k, tower, level, inside, finer, exact, where)

    def _search(
        self,
        queries_QD: np.ndarray,
        k: int,
        tower: str | None,
        level: str,
        inside: int,
        finer: Mapping[str, np.ndarray] | None,
        exact: bool,
        where: Filter | None,
    ) -> list[list[Hit]]:
        def results(segments: Sequence[Segment]) -> list[list[Hit]]:
            chosen = [
                each
                for each in segments
                if each.entry.level == level and tower in (None, each.entry.tower) and len(each)
            ]
            # The order of equal rows must not depend on how segments were merged.
            chosen.sort(key=lambda segment: segment.entry.tower)
            inherited = _Inherited(segments)
            nearest = [
                each.neighbours.search(queries_QD, k, each.mask(where, inherited), exact=exact) for each in chosen
            ]
            hits = _best(chosen, nearest, k, len(queries_QD))
            if not inside:
                return hits
            levels = {segment.entry.level for segment in segments} - {""}
            answers = []
            for number, of_query in enumerate(hits):
                if finer is None:
                    queries = dict.fromkeys(levels, queries_QD[number])
                else:
                    queries = {name: finer_QD[number] for name, finer_QD in finer.items()}
                answers.append(
                    [replace(hit, inside=self._inside(segments, hit.row, queries, inside)) for hit in of_query]
                )
            return answers

        return self._current(results)

    def _current(self, act: Callable[[Sequence[Segment]], T]) -> T:
        """Calls a function of the current segments, again if their files were removed by a merge meanwhile."""
        self.refresh()
        while True:
            try:
                return act(self.segments)
            except (UserError, OSError):
                if not self.refresh():
                    raise

    def with_pieces(self, hits: Sequence[Hit], count: int, queries: np.ndarray | Mapping[str, np.ndarray]) -> list[Hit]:
        """The hits with the best finer rows within each.

        Args:
            hits: of a search.
            count: maximum number of finer rows within each row.
            queries: query vectors by level; levels without one are left out. A single vector is for all levels.
        """
        by_level = queries if isinstance(queries, Mapping) else dict.fromkeys(self.levels, queries)

        def filled(segments: Sequence[Segment]) -> list[Hit]:
            return [replace(hit, inside=self._inside(segments, hit.row, by_level, count)) for hit in hits]

        return self._current(filled)

    @property
    def columns(self) -> set[str]:
        """The names of the columns of ``info`` of all rows."""
        return set().union(*self._current(lambda segments: [segment.columns for segment in segments]))

    def search_words(
        self,
        text: str,
        query_D: np.ndarray,
        k: int,
        *,
        tower: str | None = None,
        level: str = "",
        where: Filter | None = None,
    ) -> list[tuple[Hit, float]]:
        """The rows whose texts match a text best, each with how well it does, 0 to 1.

        Args:
            text: the query.
            query_D: its vector, for the scores of the hits.
            k: maximum number of results.
            tower: of the results; any if absent.
            level: of the results; samples if empty.
            where: only rows that it matches.

        Raises:
            UserError: a file is damaged.
        """

        def results(segments: Sequence[Segment]) -> list[tuple[Hit, float]]:
            chosen = [each for each in segments if each.entry.level == level and tower in (None, each.entry.tower)]
            chosen.sort(key=lambda segment: segment.entry.tower)
            inherited = _Inherited(segments)
            matches = search_words(text, [(each.words, each.mask(where, inherited).allowed_N) for each in chosen], k)
            hits = []
            for match in matches:
                segment = chosen[match.segment]
                score = float(segment.collection.vectors_ND[match.position] @ query_D)
                hits.append((segment.hit(match.position, score), match.score))
            return hits

        return self._current(results)

    def vector(self, row: Row) -> np.ndarray:
        """(D,) the vector of a row.

        Raises:
            UserError: the index has no such row.
        """

        def found(segments: Sequence[Segment]) -> np.ndarray:
            for segment in segments:
                for positions in segment.living("keys", [row.key]).values():
                    return np.array(segment.collection.vectors_ND[positions[0]])
            raise UserError(f"the index has no row {row.id!r} of {row.tower}")

        return self._current(found)

    def count(self, tower: str, level: str = "", where: Filter | None = None) -> int:
        """The number of rows of a tower and level that a filter matches."""

        def counted(segments: Sequence[Segment]) -> int:
            inherited = _Inherited(segments)
            return sum(
                each.mask(where, inherited).count
                for each in segments
                if (each.entry.tower, each.entry.level) == (tower, level)
            )

        return self._current(counted)

    def _inside(
        self, segments: Sequence[Segment], row: Row, queries: Mapping[str, np.ndarray], count: int
    ) -> tuple[Hit, ...]:
        """The best rows whose parent is this one, each with the best rows inside it."""
        key = key_of(row.tower, row.id)
        candidates: list[tuple[float, Segment, int]] = []
        for segment in segments:
            if segment.entry.tower == row.tower and segment.entry.level in queries:
                positions = segment.living("parents", [key]).get(key, [])
                scores = segment.collection.vectors_ND[positions] @ queries[segment.entry.level]
                candidates += [
                    (float(score), segment, position) for score, position in zip(scores, positions, strict=True)
                ]
        best = sorted(candidates, key=lambda item: -item[0])[:count]
        hits = [segment.hit(position, score) for score, segment, position in best]
        return tuple(replace(hit, inside=self._inside(segments, hit.row, queries, count)) for hit in hits)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Locks the index for writing, and removes incomplete segments before and after."""
        with explained(self.folder), exclusive_lock(self.folder):
            self._open()
            self._clear()
            try:
                yield
            except BaseException:
                # Errors here must not hide the one that is being raised.
                with suppress(OSError, UserError):
                    self._open()
                    self._clear()
                raise
            self._open()
            self._clear()

    def _clear(self) -> None:
        """Removes files that the manifest does not name."""
        removed_files = {segment.entry.name: segment.entry.removed for segment in self.segments}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name.lstrip(".").startswith("segment-"):
                if path.name not in removed_files:
                    shutil.rmtree(path)
                    continue
                for file in path.glob("removed-*.npy"):
                    if file.name != removed_files[path.name]:
                        file.unlink()

    def _commit(self, entries: Sequence[Entry]) -> None:
        entries = [entry.with_checksums(self.folder) for entry in entries]
        _write_manifest(self.folder, _Manifest(self.model, entries, self._next + 1, self.target))


class _Inherited:
    """The columns of the sample that a row is a piece of.

    Args:
        segments: of the index.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._columns: dict[tuple[str, str], Mapping[str, str]] = {}

    def __call__(self, row: Row) -> Mapping[str, str]:
        chain = []
        columns: Mapping[str, str] = {}
        while row.parent and (row.tower, row.parent) not in chain:
            if (cached := self._columns.get((row.tower, row.parent))) is not None:
                columns = cached
                break
            chain.append((row.tower, row.parent))
            parent = self._row(row.tower, row.parent)
            if parent is None:
                break
            row, columns = parent, {} if parent.level else parent.info
        self._columns |= dict.fromkeys(chain, columns)
        return columns

    def _row(self, tower: str, name: str) -> Row | None:
        key = key_of(tower, name)
        for segment in self._segments:
            for position in segment.living("keys", [key]).get(key, []):
                return segment.collection.row(position)
        return None


def _best(
    segments: Sequence[Segment], nearest: Sequence[tuple[np.ndarray, np.ndarray]], k: int, queries: int
) -> list[list[Hit]]:
    """The hits of each query, of the results of all segments."""
    if not segments:
        return [[] for _ in range(queries)]
    if len(segments) == 1:
        ((scores_QK, positions_QK),) = nearest
        return [
            [segments[0].hit(position, score) for position, score in zip(positions, scores, strict=True)]
            for positions, scores in zip(positions_QK.tolist(), scores_QK.tolist(), strict=True)
        ]
    scores_QN = np.concatenate([scores_QK for scores_QK, _ in nearest], 1)
    positions_QN = np.concatenate([positions_QK for _, positions_QK in nearest], 1)
    segment_N = np.repeat(np.arange(len(segments)), [scores_QK.shape[1] for scores_QK, _ in nearest])
    order_QK = np.argsort(-scores_QN, 1, kind="stable")[:, :k]
    return [
        [segments[segment_N[at]].hit(int(positions_N[at]), float(scores_N[at])) for at in order_K]
        for order_K, positions_N, scores_N in zip(order_QK, positions_QN, scores_QN, strict=True)
    ]


def _recall(segments: Sequence[Segment]) -> float | None:
    """Recall averaged over segments by their rows; ``None`` if there are no rows or one has not been measured."""
    recalls = [(segment.neighbours.recall, len(segment)) for segment in segments if len(segment)]
    if not recalls or any(recall is None for recall, _ in recalls):
        return None
    return sum(recall * count for recall, count in recalls if recall) / sum(count for _, count in recalls)


def _living_contents(segment: Segment) -> list[list[int]]:
    """Fingerprints of the contents of each remaining row."""
    fingerprints: dict[int, list[int]] = {position: [] for position in segment.alive.positions.tolist()}
    for fingerprint, position in segment.contents().tolist():
        if position in fingerprints:
            fingerprints[position].append(fingerprint)
    return list(fingerprints.values())


def _same_content(segments: Sequence[tuple[Segment, np.ndarray]], fingerprints: Sequence[int]) -> str | None:
    """The id of a remaining row with one of these fingerprints."""
    for segment, contents_M2 in segments:
        for fingerprint in fingerprints:
            first, last = np.searchsorted(contents_M2[:, 0], [fingerprint, fingerprint + 1])
            for position in contents_M2[first:last, 1].tolist():
                if segment.alive.allowed_N[position]:
                    return segment.collection.row(position).id
    return None


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    replace_file(folder / "manifest.json", MANIFEST.encode(asdict(manifest)))
