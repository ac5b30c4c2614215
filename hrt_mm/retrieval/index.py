"""An index: collections that are searched together, in a folder that is whole at every moment.

Vectors lie in segments, a folder each, of one part and level. Adding writes new segments and then, in one rename, a new
``manifest.json``: a reader, and whoever comes after a kill, sees the index before or after it.

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

MANIFEST = Format("an index, as `hrt-mm index build` makes one", REMEDY)


@dataclass(frozen=True)
class _Manifest:
    """What ``manifest.json`` holds; in the first schema segments had no sums."""

    model: Model
    segments: list[Entry]
    next: PositiveInt


_KIND = TypeAdapter(_Manifest)


class Index:
    """An index, opened.

    Args:
        folder: where it lies.

    Raises:
        UserError: it is no index, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._open()

    @classmethod
    def create(cls, folder: Path, model: Model) -> Index:
        """An index without vectors.

        Raises:
            UserError: there is something in its place, or the disk is full.
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
        """An index of some collections; nothing of it is left where it fails.

        Args:
            folder: where it is made; empty or not there.
            collections: one or more, of one model.
            kind: of the segments; what suits their size when absent.

        Raises:
            UserError: there is something in its place, they are of several models, an id is there twice, or the disk
                is full.
        """
        found = cls.create(folder, collections[0].model)
        try:
            found.extend(collections, kind)
        except BaseException:
            if not found.segments:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return found

    def _open(self) -> None:
        """Reads what the manifest says. Segments that are open already are not opened again."""
        known = {segment.entry.name: segment for segment in self.segments}
        while True:
            manifest = self._manifest()
            try:
                segments = [Segment(self.folder / own.name, own, known.get(own.name)) for own in manifest.segments]
            except UserError:
                # A writer removes files that its new manifest does not name any more.
                if self._manifest() != manifest:
                    continue
                raise
            break
        self.model, self._next, self.segments = manifest.model, manifest.next, segments

    def _manifest(self) -> _Manifest:
        path = self.folder / "manifest.json"
        value = MANIFEST.read(path)
        manifest = MANIFEST.check(path, value, _KIND)
        for own in manifest.segments:
            if not own.name or Path(own.name).name != own.name or Path(own.removed).name != own.removed:
                raise UserError(f"{path} names a file outside the index: {own.name!r}")
            if value["schema"] > 1 and own.sums.keys() != own.files:
                raise MANIFEST.damaged(path, f"{own.name} has sums of {', '.join(sorted(own.sums)) or 'no file'}")
        return manifest

    def verify(self) -> None:
        """Compares every file of vectors and rows with its checksum, and media not.

        Raises:
            UserError: a file is damaged; names it.
        """
        for segment in self.segments:
            segment.verify()

    def __len__(self) -> int:
        return sum(len(segment.collection) - len(segment.removed) for segment in self.segments)

    @property
    def parts(self) -> dict[str, int]:
        """How many whole samples there are of each part."""
        found: dict[str, int] = {}
        for segment in self.segments:
            if not segment.entry.level:
                count = len(segment.collection) - len(segment.removed)
                found[segment.entry.part] = found.get(segment.entry.part, 0) + count
        return found

    @property
    def levels(self) -> set[str]:
        """The levels whose pieces it holds."""
        return {segment.entry.level for segment in self.segments if segment.entry.level}

    def add(self, collection: Collection, kind: Kind | None = None) -> int:
        """Adds a collection; what was there is not built anew.

        Args:
            collection: of the same model.
            kind: of the new segments; what suits their size when absent.

        Returns:
            The vectors that were added.

        Raises:
            UserError: it is of another model, an id is there already or twice, another process writes, or the disk is
                full. The index stays as it was.
        """
        return self.extend([collection], kind)

    def extend(self, collections: Sequence[Collection], kind: Kind | None = None) -> int:
        """Adds collections, all of them or none, as :meth:`add` does one."""
        for collection in collections:
            self.model.check(collection.model, str(collection.folder))
            if not collection.checked:
                collection.verify()
        with self._alone():
            self._check_new(collections)
            entries = [segment.entry for segment in self.segments]
            for collection in collections:
                entries += self._written(collection, kind)
            self._commit(entries)
        return sum(map(len, collections))

    def _written(self, collection: Collection, kind: Kind | None) -> Iterator[Entry]:
        """Writes the segments of a collection."""
        shelves: dict[tuple[str, str], list[int]] = {}
        for place, row in enumerate(collection.rows()):
            shelves.setdefault((row.part, row.level), []).append(place)
        for (part, level), places in shelves.items():
            name = f"segment-{self._next:06d}"
            self._next += 1
            chosen = kind or kind_for(len(places))
            sums = self._write_segment(self.folder / name, collection, places, chosen)
            yield Entry(name, part, level, len(places), chosen, sums=sums)

    def _write_segment(
        self, folder: Path, collection: Collection, places: Sequence[int], kind: Kind
    ) -> Mapping[str, Sum]:
        with writing(folder, self.model) as writer:
            for first in range(0, len(places), BLOCK):
                block = places[first : first + BLOCK]
                rows = list(collection.chosen(block))
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
            keys, places = collection.fingerprints()
            if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
                row = collection.row(int(places[twice[0]]))
                raise UserError(
                    f"{collection.folder} has two rows of part {row.part!r} with id {row.id!r}; ids are unique"
                )
            known = seen.intersection(keys.tolist())
            for segment in self.segments:
                known |= segment.living("keys", keys).keys()
            if known:
                first = sorted(places[np.isin(keys, list(known))].tolist())[:3]
                names = ", ".join(repr(row.id) for row in collection.chosen(first))
                more = f" and {len(known) - 3} more" if len(known) > 3 else ""
                there = "that another collection has" if known <= seen else "that the index has already"
                raise UserError(f"ids {there}: {names}{more}; remove them first, or give others")
            seen.update(keys.tolist())

    def remove(self, ids: Sequence[str], part: str | None = None) -> int:
        """Removes whole samples, and what lies within them.

        Args:
            ids: of the rows.
            part: of the rows; every part when absent.

        Returns:
            The vectors that were removed.

        Raises:
            UserError: there is no such row; names the first.
        """
        with self._alone():
            parts = {segment.entry.part for segment in self.segments} if part is None else {part}
            missing = set(ids)
            found: dict[str, set[int]] = {}
            waiting = [(own, name) for own in sorted(parts) for name in ids]
            while waiting:
                keys = {key_of(*pair): pair for pair in waiting}
                waiting = []
                for segment in self.segments:
                    for which in ("keys", "parents"):
                        for key, places in segment.living(which, list(keys)).items():
                            fresh = set(places) - found.get(segment.entry.name, set())
                            found.setdefault(segment.entry.name, set()).update(fresh)
                            if which == "keys":
                                missing.discard(keys[key][1])
                            else:
                                waiting += [(keys[key][0], segment.collection.row(place).id) for place in fresh]
            if missing:
                raise UserError(f"the index has no row {sorted(missing)[0]!r}{f' of part {part!r}' if part else ''}")
            self._commit([self._left(segment, found.get(segment.entry.name, set())) for segment in self.segments])
        return sum(len(places) for places in found.values())

    def _left(self, segment: Segment, places: set[int]) -> Entry:
        return segment.without(places, f"removed-{self._next:06d}.npy") if places else segment.entry

    def search(
        self,
        query_D: np.ndarray,
        k: int,
        *,
        part: str | None = None,
        level: str = "",
        inside: int = 0,
        finer: Mapping[str, np.ndarray] | None = None,
    ) -> list[Hit]:
        """The nearest rows, best first; fewer than k where the index has no more.

        Args:
            query_D: a vector of the index's model.
            k: answers at most.
            part: of the answers; any when absent.
            level: of the answers; whole samples when empty.
            inside: how many of the finer rows within each answer are given with it.
            finer: by level, the vector that finer rows are compared with; other levels are left out. The query itself
                for all levels when absent.

        Raises:
            UserError: k is below 1, or a vector's width is another or it is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        if finer is not None:
            finer = {name: check_query(own_D, k, self.model.dim) for name, own_D in finer.items()}
        found: list[tuple[float, Segment, int]] = []
        for segment in self.segments:
            if segment.entry.level == level and part in (None, segment.entry.part):
                scores_1K, places_1K = segment.neighbours.search(query_D[None], k)
                found += [
                    (float(score), segment, int(place)) for score, place in zip(scores_1K[0], places_1K[0], strict=True)
                ]
        best = sorted(found, key=lambda item: -item[0])[:k]
        hits = [segment.hit(place, score) for score, segment, place in best]
        queries = finer if finer is not None else dict.fromkeys(self.levels, query_D)
        return [replace(hit, inside=self._inside(hit.row, queries, inside)) for hit in hits] if inside else hits

    def _inside(self, row: Row, queries: Mapping[str, np.ndarray], count: int) -> tuple[Hit, ...]:
        """The best of the rows whose parent is this one, each with the best of its own."""
        key = key_of(row.part, row.id)
        found: list[tuple[float, Segment, int]] = []
        for segment in self.segments:
            if segment.entry.part == row.part and segment.entry.level in queries:
                places = segment.living("parents", [key]).get(key, [])
                scores = segment.collection.vectors_ND[places] @ queries[segment.entry.level]
                found += [(float(score), segment, place) for score, place in zip(scores, places, strict=True)]
        best = sorted(found, key=lambda item: -item[0])[:count]
        hits = [segment.hit(place, score) for score, segment, place in best]
        return tuple(replace(hit, inside=self._inside(hit.row, queries, count)) for hit in hits)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes inside. What a killed or failed one left half done is cleared away."""
        with explained(self.folder), exclusive_lock(self.folder):
            self._open()
            self._clear()
            try:
                yield
            except BaseException:
                # The error that is under way says more than one of these.
                with suppress(OSError, UserError):
                    self._open()
                    self._clear()
                raise
            self._open()
            self._clear()

    def _clear(self) -> None:
        """Removes what the manifest does not name."""
        known = {segment.entry.name: segment.entry.removed for segment in self.segments}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name.lstrip(".").startswith("segment-"):
                if path.name not in known:
                    shutil.rmtree(path)
                    continue
                for own in path.glob("removed-*.npy"):
                    if own.name != known[path.name]:
                        own.unlink()

    def _commit(self, entries: Sequence[Entry]) -> None:
        entries = [entry.summed(self.folder) for entry in entries]
        _write_manifest(self.folder, self.model, entries, self._next + 1)


def _write_manifest(folder: Path, model: Model, entries: Sequence[Entry], following: int) -> None:
    segments = [asdict(entry) for entry in entries]
    value = {"model": model.plain(), "segments": segments, "next": following}
    replace_file(folder / "manifest.json", MANIFEST.encode(value))
