"""An index: collections that are searched together, in a folder that is updated atomically.

Vectors are stored in segments, each a folder with those of one tower and level. Adding writes new segments and then
replaces ``manifest.json``, so that readers, also after a crash, see the index either before or after the change.

Shapes: Q queries, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import PositiveInt, TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import LOCK, exclusive_lock, explained, replace_file
from ..data.storage import Format, Sum
from .collection import BLOCK, MEDIA, Collection, mapped_vectors, writing
from .neighbours import REMEDY, STRUCTURE, Kind, build, kind_for
from .rows import Model, Row, check_query, key_of
from .segment import Entry, Hit, Segment

__all__ = ["Hit", "Index"]

MANIFEST = Format("an index, as `hrt-mm index build` makes one", REMEDY, schema=3)


@dataclass(frozen=True)
class _Manifest:
    """The content of ``manifest.json``. Segments have checksums since schema 2."""

    model: Model
    segments: list[Entry]
    next: PositiveInt


_MANIFEST_SCHEMA = TypeAdapter(_Manifest)


class Index:
    """An open index.

    Args:
        folder: of the index.

    Raises:
        UserError: the folder is not an index, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._open()

    @classmethod
    def create(cls, folder: Path, model: Model) -> Index:
        """Creates an empty index.

        Raises:
            UserError: the folder is not empty, or the disk is full.
        """
        with explained(folder), exclusive_lock(folder, create=True):
            if any(entry.name != LOCK for entry in folder.iterdir()):
                raise UserError(
                    f"{folder} is not empty; add to the index with `hrt-mm index add`, or choose another folder"
                )
            _write_manifest(folder, model, [], 1)
        return cls(folder)

    @classmethod
    def build(cls, folder: Path, collections: Sequence[Collection], kind: Kind | None = None) -> Index:
        """Builds an index of collections. If that fails, nothing of it is left.

        Args:
            folder: of the index; empty or missing.
            collections: one or more, of one model.
            kind: of the segments; chosen by their size if absent.

        Raises:
            UserError: the folder is not empty, the collections are of several models, an id is not unique, or the disk
                is full.
        """
        index = cls.create(folder, collections[0].model)
        try:
            index.extend(collections, kind)
        except BaseException:
            if not index.segments:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return index

    def _open(self) -> None:
        """Reads the manifest, and opens segments that are not open yet."""
        opened = {segment.entry.name: segment for segment in self.segments}
        while True:
            manifest = self._manifest()
            try:
                segments = [
                    Segment(self.folder / entry.name, entry, opened.get(entry.name)) for entry in manifest.segments
                ]
            except UserError:
                # Another process may have replaced the manifest and removed files that the new one does not name.
                if self._manifest() != manifest:
                    continue
                raise
            break
        self.model, self._next, self.segments = manifest.model, manifest.next, segments

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
        return sum(len(segment.collection) - len(segment.removed) for segment in self.segments)

    @property
    def towers(self) -> dict[str, int]:
        """Number of samples of each tower."""
        counts: dict[str, int] = {}
        for segment in self.segments:
            if not segment.entry.level:
                count = len(segment.collection) - len(segment.removed)
                counts[segment.entry.tower] = counts.get(segment.entry.tower, 0) + count
        return counts

    @property
    def levels(self) -> set[str]:
        """The levels of which the index has pieces."""
        return {segment.entry.level for segment in self.segments if segment.entry.level}

    def add(self, collection: Collection, kind: Kind | None = None) -> int:
        """Adds a collection, in new segments.

        Args:
            collection: of the same model.
            kind: of the new segments; chosen by their size if absent.

        Returns:
            The number of vectors added.

        Raises:
            UserError: the collection is of another model, an id is not unique, another process is writing, or the disk
                is full. The index is unchanged.
        """
        return self.extend([collection], kind)

    def extend(self, collections: Sequence[Collection], kind: Kind | None = None) -> int:
        """Adds several collections, either all or none; see :meth:`add`."""
        for collection in collections:
            self.model.check(collection.model, str(collection.folder))
            if not collection.checked:
                collection.verify()
        with self._writing():
            self._check_new(collections)
            entries = [segment.entry for segment in self.segments]
            for collection in collections:
                entries += self._written(collection, kind)
            self._commit(entries)
        return sum(map(len, collections))

    def _written(self, collection: Collection, kind: Kind | None) -> Iterator[Entry]:
        """Writes a segment for each tower and level of a collection."""
        by_tower_and_level: dict[tuple[str, str], list[int]] = {}
        for position, row in enumerate(collection.rows()):
            by_tower_and_level.setdefault((row.tower, row.level), []).append(position)
        for (tower, level), positions in by_tower_and_level.items():
            name = f"segment-{self._next:06d}"
            self._next += 1
            segment_kind = kind or kind_for(len(positions))
            sums = self._write_segment(self.folder / name, collection, positions, segment_kind)
            yield Entry(name, tower, level, len(positions), segment_kind, sums=sums)

    def _write_segment(
        self, folder: Path, collection: Collection, positions: Sequence[int], kind: Kind
    ) -> Mapping[str, Sum]:
        with writing(folder, self.model) as writer:
            for first in range(0, len(positions), BLOCK):
                block = positions[first : first + BLOCK]
                rows = list(collection.rows_at(block))
                writer.add(collection.vectors_ND[block], rows)
                for row in rows:
                    if (path := collection.media(row)) is not None:
                        copy = writer.folder / MEDIA / row.file
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, copy)
            writer.finish()
            build(mapped_vectors(writer.folder, self.model.dim), kind, writer.folder)
            return {STRUCTURE: Sum.of_file(writer.folder / STRUCTURE)} if kind != "flat" else {}

    def _check_new(self, collections: Sequence[Collection]) -> None:
        seen: set[int] = set()
        for collection in collections:
            keys, positions = collection.fingerprints()
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

    def search(
        self,
        query_D: np.ndarray,
        k: int,
        *,
        tower: str | None = None,
        level: str = "",
        inside: int = 0,
        finer: Mapping[str, np.ndarray] | None = None,
    ) -> list[Hit]:
        """The nearest rows, best first.

        Args:
            query_D: a vector of the index's model.
            k: maximum number of results.
            tower: of the results; any if absent.
            level: of the results; samples if empty.
            inside: number of finer rows to return within each result.
            finer: query vectors by level, for the finer rows. Levels without one are left out. If absent, ``query_D``
                is used for all levels.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        if finer is not None:
            finer = {name: check_query(finer_D, k, self.model.dim) for name, finer_D in finer.items()}
        candidates: list[tuple[float, Segment, int]] = []
        for segment in self.segments:
            if segment.entry.level == level and tower in (None, segment.entry.tower):
                scores_1K, positions_1K = segment.neighbours.search(query_D[None], k)
                candidates += [
                    (float(score), segment, int(position))
                    for score, position in zip(scores_1K[0], positions_1K[0], strict=True)
                ]
        best = sorted(candidates, key=lambda item: -item[0])[:k]
        hits = [segment.hit(position, score) for score, segment, position in best]
        queries = finer if finer is not None else dict.fromkeys(self.levels, query_D)
        return [replace(hit, inside=self._inside(hit.row, queries, inside)) for hit in hits] if inside else hits

    def _inside(self, row: Row, queries: Mapping[str, np.ndarray], count: int) -> tuple[Hit, ...]:
        """The best rows whose parent is this one, each with the best rows inside it."""
        key = key_of(row.tower, row.id)
        candidates: list[tuple[float, Segment, int]] = []
        for segment in self.segments:
            if segment.entry.tower == row.tower and segment.entry.level in queries:
                positions = segment.living("parents", [key]).get(key, [])
                scores = segment.collection.vectors_ND[positions] @ queries[segment.entry.level]
                candidates += [
                    (float(score), segment, position) for score, position in zip(scores, positions, strict=True)
                ]
        best = sorted(candidates, key=lambda item: -item[0])[:count]
        hits = [segment.hit(position, score) for score, segment, position in best]
        return tuple(replace(hit, inside=self._inside(hit.row, queries, count)) for hit in hits)

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
        _write_manifest(self.folder, self.model, entries, self._next + 1)


def _write_manifest(folder: Path, model: Model, entries: Sequence[Entry], next_number: int) -> None:
    segments = [asdict(entry) for entry in entries]
    value = {"model": model.plain(), "segments": segments, "next": next_number}
    replace_file(folder / "manifest.json", MANIFEST.encode(value))
