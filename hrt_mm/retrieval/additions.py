"""What is added to an index: new rows, of which duplicates are reported and ids must be unique.

Shapes: N rows of a collection, M fingerprints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import UserError
from .collection import Collection
from .segment import Segment, fingerprints_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Addition:
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
    def of(cls, collection: Collection) -> Addition:
        """All rows of a collection."""
        addition = cls(collection)
        for position, row in enumerate(collection.rows()):
            addition.groups.setdefault((row.tower, row.level), []).append(position)
            if not row.level:
                addition.fingerprints[position] = fingerprints_of(collection, position, row)
        return addition

    def without(self, dropped: set[int]) -> Addition:
        """A copy without some samples and their pieces."""
        dropped = dropped.union(self.collection.pieces_of(self.collection.row(position).key for position in dropped))
        groups = {
            group: remaining
            for group, positions in self.groups.items()
            if (remaining := [position for position in positions if position not in dropped])
        }
        fingerprints = {position: each for position, each in self.fingerprints.items() if position not in dropped}
        return Addition(self.collection, groups, fingerprints)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def samples(self, without: Iterable[int] = ()) -> int:
        """Number of samples whose keys are not among some."""
        positions = {each for (_, level), group in self.groups.items() if not level for each in group}
        return len(positions.difference(*self.collection.positions_of("keys", without).values()))

    def compared(self, segments: Sequence[Segment]) -> tuple[set[int], set[tuple[str, str]]]:
        """The samples that an index has already.

        Args:
            segments: of the index.

        Returns:
            Positions of those that have not changed, and towers and ids of the others.
        """
        positions = [position for (_, level), group in self.groups.items() if not level for position in group]
        by_key = {self.collection.row(position).key: position for position in positions}
        unchanged, changed = set[int](), set[tuple[str, str]]()
        for segment in segments:
            for key, (existing, *_) in segment.living("keys", by_key).items():
                position = by_key[key]
                row, old = self.collection.row(position), segment.collection.row(existing)
                old_D = segment.collection.vectors_ND[existing]
                if row.unchanged(self.collection.vectors_ND[position], old, old_D):
                    unchanged.add(position)
                else:
                    changed.add((row.tower, row.id))
        return unchanged, changed


@dataclass(frozen=True)
class Replacement:
    """What :meth:`hrt_mm.retrieval.index.Index.replace` did, in samples.

    Args:
        added: that the index did not have.
        replaced: that have changed.
        unchanged: that were left as they are.
    """

    added: int
    replaced: int
    unchanged: int


def without_duplicates(
    additions: Sequence[Addition], segments: Sequence[Segment], *, skip: bool = False
) -> list[Addition]:
    """Logs samples that have the same vector or media file as another one of their tower.

    Args:
        additions: to the index.
        segments: of the index.
        skip: leave such samples out.

    Returns:
        The additions, without duplicates if these are skipped.
    """
    contents = {
        tower: [
            (segment, segment.contents())
            for segment in segments
            if segment.entry.tower == tower and not segment.entry.level
        ]
        for tower in {tower for addition in additions for tower, level in addition.groups if not level}
    }
    seen: dict[tuple[str, int], str] = {}
    duplicates: list[tuple[str, str]] = []
    remaining = []
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
        remaining.append(addition.without(dropped) if skip and dropped else addition)
    if duplicates:
        names = ", ".join(f"{name!r} as {first!r}" for name, first in duplicates[:3])
        more = ", and others" if len(duplicates) > 3 else ""
        left_out = ", left out" if skip else ""
        log.warning("duplicates by vector or media file%s: %d (%s%s)", left_out, len(duplicates), names, more)
    return remaining


def _same_content(segments: Sequence[tuple[Segment, np.ndarray]], fingerprints: Sequence[int]) -> str | None:
    """The id of a remaining row with one of these fingerprints."""
    for segment, contents_M2 in segments:
        for fingerprint in fingerprints:
            first, last = np.searchsorted(contents_M2[:, 0], [fingerprint, fingerprint + 1])
            for position in contents_M2[first:last, 1].tolist():
                if segment.alive.allowed_N[position]:
                    return segment.collection.row(position).id
    return None


def check_unique(additions: Sequence[Addition], segments: Sequence[Segment]) -> None:
    """Refuses ids that another row of the tower has.

    Args:
        additions: to the index.
        segments: of the index.

    Raises:
        UserError: names the first ids.
    """
    seen: set[int] = set()
    for addition in additions:
        collection = addition.collection
        added_N = np.zeros(len(collection), bool)
        for group in addition.groups.values():
            added_N[group] = True
        keys, positions = collection.fingerprints()
        keys, positions = keys[added_N[positions]], positions[added_N[positions]]
        if (duplicates := np.flatnonzero(keys[1:] == keys[:-1])).size:
            row = collection.row(int(positions[duplicates[0]]))
            raise UserError(
                f"{collection.folder} has two rows of tower {row.tower!r} with id {row.id!r}; ids are unique"
            )
        existing = seen.intersection(keys.tolist())
        for segment in segments:
            existing |= segment.living("keys", keys).keys()
        if existing:
            first = sorted(positions[np.isin(keys, list(existing))].tolist())[:3]
            names = ", ".join(repr(row.id) for row in collection.rows_at(first))
            more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
            where = "that another collection has" if existing <= seen else "that the index has already"
            raise UserError(f"ids {where}: {names}{more}; remove them first, or give others")
        seen.update(keys.tolist())
