"""An index: collections that are searched together, in a folder that is updated atomically.

Vectors are stored in segments, each a folder with those of one tower and level. Adding writes new segments and then
replaces ``manifest.json``, so that readers, also after a crash, see the index either before or after the change. Many
small segments are merged into larger ones.

Shapes: Q queries, D width.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np

from ..core.errors import UserError
from ..data.atomic_files import LOCK, exclusive_lock, explained
from .additions import Addition, Replacement, check_unique, without_duplicates
from .collection import Collection
from .manifest import FILE as MANIFEST_FILE
from .manifest import RECALL, Manifest, manifest_stamp, read_manifest, write_manifest
from .options import Scope, ScopeKeywords, VectorSearch, VectorSearchKeywords
from .rows import IndexUnavailable, Model, Row, check_queries, check_query, key_of
from .segment import Entry, Hit, Segment
from .segment_writer import SegmentWriter, Source, is_current, small_segments
from .snapshot import Group, Snapshot
from .structures import SAMPLED
from .where import Where

__all__ = ["RECALL", "Group", "Hit", "Index"]

T = TypeVar("T")
log = logging.getLogger(__name__)


class Index:
    """An open index.

    Args:
        folder: of the index.

    Raises:
        UserError: the folder is not an index, or it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._manifest = str(self.folder / MANIFEST_FILE)
        self._snapshot = Snapshot([])
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
            write_manifest(folder, Manifest(model, [], 1, recall))
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
            stamp, manifest = manifest_stamp(self._manifest), read_manifest(self.folder)
            try:
                segments = [self._segment(entry, opened.get(entry.name)) for entry in manifest.segments]
            except UserError:
                # Another process may have replaced the manifest and removed files that the new one does not name.
                if read_manifest(self.folder) != manifest:
                    continue
                raise
            break
        self.model, self._next, self.target = manifest.model, manifest.next, manifest.recall
        self._snapshot, self._stamp = Snapshot(segments), stamp

    def _segment(self, entry: Entry, opened: Segment | None) -> Segment:
        return opened if opened and opened.entry == entry else Segment(self.folder / entry.name, entry, opened)

    @property
    def segments(self) -> Sequence[Segment]:
        """The open segments, in the order in which they were added."""
        return self._snapshot.segments

    def refresh(self) -> bool:
        """Opens what was added, removed or merged since, also by other processes. Each search does so first.

        Returns:
            Whether there was anything.

        Raises:
            IndexUnavailable: the index is gone.
            UserError: it is damaged.
        """
        if (stamp := manifest_stamp(self._manifest)) == self._stamp:
            return False
        if not any(stamp):
            raise IndexUnavailable(
                f"{self.folder} is gone: it was removed, or its disk is not mounted; restore it, and repeat the search"
            )
        self._open()
        return True

    def verify(self) -> None:
        """Verifies the checksum of every file, except media.

        Raises:
            UserError: a file is damaged; names it.
        """
        for segment in self.segments:
            segment.verify()

    def __len__(self) -> int:
        return len(self._snapshot)

    @property
    def towers(self) -> dict[str, int]:
        """Number of samples of each tower."""
        return {
            tower: group.rows for (tower, level), group in self._snapshot.groups.items() if not level and group.rows
        }

    @property
    def levels(self) -> set[str]:
        """The levels of which the index has pieces."""
        return self._snapshot.levels

    @property
    def columns(self) -> set[str]:
        """The names of the columns of ``info`` of all rows."""
        return set(self._current(lambda snapshot: snapshot.columns))

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
        group = self._snapshot.groups.get((tower, level))
        return group.recall if group is not None else None

    def groups(self) -> list[Group]:
        """The rows of each tower and level, and how accurate search among them is."""
        return [*self._snapshot.groups.values()]

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
        self._check_collections(collections, queries)
        with self._writing():
            additions = without_duplicates([*map(Addition.of, collections)], self.segments, skip=skip_duplicates)
            self._add(additions, self.segments, queries)
        return sum(map(len, additions))

    def replace(
        self,
        collections: Sequence[Collection],
        *,
        skip_duplicates: bool = False,
        queries: Collection | None = None,
    ) -> Replacement:
        """Adds several collections, whose samples replace those of the same tower and id that have changed.

        A sample is unchanged if its stamp is that in the index, or, where one has no stamp, if its vector and its row
        are. Replaced samples go with all of their pieces. Readers see the index before or after all of it.

        Args:
            collections: as for :meth:`extend`, and so are the others.
            skip_duplicates: leave out samples whose content another one has.
            queries: to measure recall with.

        Raises:
            UserError: see :meth:`extend`. The index is unchanged.
        """
        self._check_collections(collections, queries)
        seen: set[int] = set()
        for collection in collections:
            keys = set(collection.fingerprints()[0].tolist())
            if seen & keys:
                raise UserError(f"{collection.folder} has ids that another collection has; ids are unique")
            seen |= keys
        with self._writing():
            additions, unchanged, changed = [], 0, set[tuple[str, str]]()
            for addition in map(Addition.of, collections):
                same, others = addition.compared(self.segments)
                additions.append(addition.without(same) if same else addition)
                unchanged += len(same)
                changed |= others
            removed = self._positions_of(sorted(changed))
            segments = [
                self._segment(self._without(segment, removed.get(segment.entry.name, set())), segment)
                for segment in self.segments
            ]
            additions = without_duplicates(additions, segments, skip=skip_duplicates)
            self._add(additions, segments, queries)
        replaced = {key_of(*pair) for pair in changed}
        return Replacement(sum(each.samples(without=replaced) for each in additions), len(changed), unchanged)

    def _check_collections(self, collections: Sequence[Collection], queries: Collection | None) -> None:
        for collection in [*collections, *([queries] if queries else [])]:
            self.model.check(collection.model, str(collection.folder))
        for collection in collections:
            if not collection.checked:
                collection.verify()

    def _add(self, additions: Sequence[Addition], segments: Sequence[Segment], queries: Collection | None) -> None:
        """Writes additions and the manifest.

        Args:
            additions: to the segments.
            segments: those of the index, with the removals to write.
            queries: to measure recall with.
        """
        check_unique(additions, segments)
        entries = [segment.entry for segment in segments]
        for addition in additions:
            for (tower, level), positions in addition.groups.items():
                entries.append(
                    self._writer.write(
                        self._new_name(),
                        tower,
                        level,
                        (addition.collection, positions),
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

    def _queries(self, tower: str, additions: Sequence[Addition] = ()) -> np.ndarray:
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

    @property
    def _writer(self) -> SegmentWriter:
        return SegmentWriter(self.folder, self.model, self.target)

    def _new_name(self) -> str:
        name = f"segment-{self._next:06d}"
        self._next += 1
        return name

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
            for group in self._snapshot.by_group.values():
                if len(group) > 1 or len(group[0].removed) or not is_current(group[0]):
                    entries += self._merged(group)
                else:
                    entries.append(group[0].entry)
            self._commit(entries)
        return before, len(self.segments)

    def _merged(self, segments: Sequence[Segment]) -> list[Entry]:
        return self._writer.merge(self._new_name(), segments, self._queries(segments[0].entry.tower))

    def _merge_small(self) -> None:
        """Merges the latest segments of each tower and level."""
        merged: dict[str, list[Entry]] = {}
        for group in self._snapshot.by_group.values():
            if small := small_segments(group):
                merged |= {segment.entry.name: [] for segment in small}
                merged[small[0].entry.name] = self._merged(small)
        if merged:
            self._commit([entry for each in self.segments for entry in merged.get(each.entry.name, [each.entry])])

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
            pairs = [(tower_name, name) for tower_name in sorted(towers) for name in ids]
            keys = [key_of(*pair) for pair in pairs]
            existing = {key for segment in self.segments for key in segment.living("keys", keys)}
            if missing := set(ids) - {name for (_, name), key in zip(pairs, keys, strict=True) if key in existing}:
                raise UserError(f"the index has no row {sorted(missing)[0]!r}{f' of tower {tower!r}' if tower else ''}")
            removed = self._positions_of(pairs)
            self._commit([self._without(segment, removed.get(segment.entry.name, set())) for segment in self.segments])
        return sum(len(positions) for positions in removed.values())

    def _positions_of(self, pairs: Sequence[tuple[str, str]]) -> dict[str, set[int]]:
        """Positions of the rows with some towers and ids, and of all pieces within them, by segment."""
        positions_by_segment: dict[str, set[int]] = {}
        pending = list(pairs)
        while pending:
            towers = {key_of(*pair): pair[0] for pair in pending}
            pending = []
            for segment in self.segments:
                for which in ("keys", "parents"):
                    for key, positions in segment.living(which, list(towers)).items():
                        new_positions = set(positions) - positions_by_segment.get(segment.entry.name, set())
                        positions_by_segment.setdefault(segment.entry.name, set()).update(new_positions)
                        if which == "parents":
                            pending += [(towers[key], segment.collection.row(each).id) for each in new_positions]
        return positions_by_segment

    def _without(self, segment: Segment, positions: set[int]) -> Entry:
        return segment.without(positions, f"removed-{self._next:06d}.npy") if positions else segment.entry

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""
        return (segment.collection.row(position) for segment, position in self._snapshot.rows_with(keys))

    def media(self, key: int) -> Path | None:
        """The media file of the row with a key, if any."""
        return self._snapshot.media(key)

    def search(self, query_D: np.ndarray, k: int, **options: Unpack[VectorSearchKeywords]) -> list[Hit]:
        """The nearest rows, best first; of equal ones those that were added first.

        Args:
            query_D: a vector of the index's model.
            k: maximum number of results.
            options: ``tower``, ``level``, ``where``, ``inside``, ``finer`` and ``exact``; see
                :class:`~hrt_mm.retrieval.options.VectorSearch`.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        search = VectorSearch(**options).checked(k, self.model.dim)
        if search.finer is not None:
            search = replace(search, finer={level: finer_D[None] for level, finer_D in search.finer.items()})
        return self._current(lambda snapshot: snapshot.search(query_D[None], k, search))[0]

    def search_many(self, queries_QD: np.ndarray, k: int, **options: Unpack[VectorSearchKeywords]) -> list[list[Hit]]:
        """The results of several queries, each as :meth:`search` gives them; faster than one by one.

        Args:
            queries_QD: vectors of the index's model.
            k: maximum number of results of each.
            options: as for :meth:`search`, with (Q, D) vectors in ``finer``.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        queries_QD = check_queries(queries_QD, k, self.model.dim)
        search = VectorSearch(**options).checked(k, self.model.dim, len(queries_QD))
        return self._current(lambda snapshot: snapshot.search(queries_QD, k, search))

    def _current(self, act: Callable[[Snapshot], T]) -> T:
        """Calls a function of the current segments, again if their files were removed by a merge meanwhile."""
        self.refresh()
        while True:
            try:
                return act(self._snapshot)
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
        return self._current(lambda snapshot: snapshot.with_pieces(hits, count, by_level))

    def search_words(
        self, text: str, query_D: np.ndarray, k: int, **scope: Unpack[ScopeKeywords]
    ) -> list[tuple[Hit, float]]:
        """The rows whose texts match a text best, each with how well it does, 0 to 1.

        Args:
            text: the query.
            query_D: its vector, for the scores of the hits.
            k: maximum number of results.
            scope: ``tower``, ``level`` and ``where``; see :class:`~hrt_mm.retrieval.options.Scope`.

        Raises:
            UserError: a file is damaged.
        """
        return self.search_words_many([text], query_D[None], k, **scope)[0]

    def search_words_many(
        self, texts: Sequence[str], queries_QD: np.ndarray, k: int, **scope: Unpack[ScopeKeywords]
    ) -> list[list[tuple[Hit, float]]]:
        """The results of several texts, each as :meth:`search_words` gives them; faster than one by one.

        Args:
            texts: the queries.
            queries_QD: their vectors, for the scores of the hits.
            k: maximum number of results of each.
            scope: as for :meth:`search_words`.

        Raises:
            UserError: a file is damaged.
        """
        return self._current(lambda snapshot: snapshot.search_words(texts, queries_QD, k, Scope(**scope)))

    def vector(self, row: Row) -> np.ndarray:
        """(D,) the vector of a row.

        Raises:
            UserError: the index has no such row.
        """
        return self._current(lambda snapshot: snapshot.vector(row))

    def count(self, tower: str, level: str = "", where: Where | None = None) -> int:
        """The number of rows of a tower and level that a filter matches."""
        return self._current(lambda snapshot: snapshot.count(Scope(tower, level, where)))

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
        write_manifest(self.folder, Manifest(self.model, entries, self._next + 1, self.target))
