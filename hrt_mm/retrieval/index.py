"""An index: collections that are searched together, in a folder that is whole at every moment.

Vectors lie in segments, a folder each, of one part and level. Adding writes new segments and then, in one rename, a new
``manifest.json``: a reader, and whoever comes after a kill, sees the index before or after it.

Shapes: Q queries, D width.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..train.files import LOCK, flush_folder, held_alone, replace_file
from .collection import MEDIA, SCHEMA, Collection, mapped_vectors, places_of, read_json, save_array, writing
from .neighbours import Kind, Neighbours, build, kind_for
from .rows import Model, Row, check_query, key_of

BLOCK = 65_536


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
    """

    name: str
    part: str
    level: str
    count: int
    kind: Kind
    removed: str = ""


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
    """A segment that is open."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.entry = entry
        self.collection = Collection(folder)
        self.removed = np.load(folder / entry.removed, allow_pickle=False) if entry.removed else np.zeros(0, np.int64)
        self.neighbours = Neighbours(self.collection.vectors_ND, entry.kind, folder, self.removed)

    def hit(self, place: int, score: float) -> Hit:
        """The answer at a place."""
        row = self.collection.row(place)
        return Hit(float(score), row, self.collection.media(row))

    def living(self, which: str, keys: Iterable[int]) -> dict[int, list[int]]:
        """Places by fingerprint, without those that were removed."""
        found = places_of(self.collection.folder, which, keys)
        gone = set(self.removed.tolist())
        kept = {key: [place for place in places if place not in gone] for key, places in found.items()}
        return {key: places for key, places in kept.items() if places}


class Index:
    """An index, opened.

    Args:
        folder: where it lies.

    Raises:
        UserError: it is no index, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    @classmethod
    def create(cls, folder: Path, model: Model) -> Index:
        """An index without vectors.

        Raises:
            UserError: there is something in its place.
        """
        with held_alone(folder, create=True):
            if any(entry.name != LOCK for entry in folder.iterdir()):
                raise UserError(
                    f"{folder} is not empty; add to the index with `hrt-mm index add`, or choose another folder"
                )
            _write_manifest(folder, model, [], 1)
        return cls(folder)

    def _open(self) -> None:
        manifest = read_json(self.folder / "manifest.json", "an index, as `hrt-mm index build` makes one")
        try:
            self.model, self._next = Model(**manifest["model"]), int(manifest["next"])
            entries = [Entry(**entry) for entry in manifest["segments"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.folder / 'manifest.json'} is damaged: {error}") from error
        for entry in entries:
            if Path(entry.name).name != entry.name or Path(entry.removed).name != entry.removed:
                raise UserError(f"{self.folder / 'manifest.json'} names a file outside the index: {entry.name!r}")
        self.segments = [Segment(self.folder / entry.name, entry) for entry in entries]

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
            UserError: it is of another model, an id is there already or twice, or another process writes.
        """
        self.model.check(collection.model, str(collection.folder))
        with self._alone():
            self._check_new(collection)
            entries = [segment.entry for segment in self.segments]
            shelves: dict[tuple[str, str], list[int]] = {}
            for place, row in enumerate(collection.rows()):
                shelves.setdefault((row.part, row.level), []).append(place)
            for (part, level), places in shelves.items():
                name = f"segment-{self._next:06d}"
                self._next += 1
                chosen = kind or kind_for(len(places))
                self._write_segment(self.folder / name, collection, places, chosen)
                entries.append(Entry(name, part, level, len(places), chosen))
            self._commit(entries)
        return len(collection)

    def _write_segment(self, folder: Path, collection: Collection, places: Sequence[int], kind: Kind) -> None:
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

    def _check_new(self, collection: Collection) -> None:
        keys, places = collection.fingerprints()
        if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
            row = collection.row(int(places[twice[0]]))
            raise UserError(f"{collection.folder} has two rows of part {row.part!r} with id {row.id!r}; ids are unique")
        for segment in self.segments:
            if known := segment.living("keys", keys):
                first = sorted(places[np.isin(keys, list(known))].tolist())[:3]
                names = ", ".join(repr(row.id) for row in collection.chosen(first))
                more = f" and {len(known) - 3} more" if len(known) > 3 else ""
                raise UserError(f"ids that the index has already: {names}{more}; remove them first, or give others")

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
            self._commit([self._without(segment, found.get(segment.entry.name, set())) for segment in self.segments])
        return sum(len(places) for places in found.values())

    def _without(self, segment: Segment, places: set[int]) -> Entry:
        if not places:
            return segment.entry
        name = f"removed-{self._next:06d}.npy"
        gone = np.array(sorted({*segment.removed.tolist(), *places}), np.int64)
        save_array(segment.collection.folder / name, gone)
        flush_folder(segment.collection.folder)
        return replace(segment.entry, removed=name)

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
                    (float(score), segment, int(place))
                    for score, place in zip(scores_1K[0], places_1K[0], strict=True)
                    if place >= 0
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
        """No other process writes inside. What a killed one left half done is cleared away first."""
        with held_alone(self.folder):
            self._open()
            known = {segment.entry.name for segment in self.segments}
            for path in self.folder.iterdir():
                if path.is_dir() and path.name not in known and path.name.lstrip(".").startswith("segment-"):
                    shutil.rmtree(path)
            try:
                yield
            finally:
                self._open()

    def _commit(self, entries: Sequence[Entry]) -> None:
        _write_manifest(self.folder, self.model, entries, self._next + 1)


def _write_manifest(folder: Path, model: Model, entries: Sequence[Entry], following: int) -> None:
    segments = [asdict(entry) for entry in entries]
    value = {"schema": SCHEMA, "model": model.plain(), "segments": segments, "next": following}
    replace_file(folder / "manifest.json", json.dumps(value, indent=1).encode())
