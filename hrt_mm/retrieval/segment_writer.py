"""Writing segments: of new rows, and of the remaining rows of several segments.

Shapes: Q queries, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.atomic_files import write_flushed
from ..data.storage import Sum, array_bytes
from .collection import BLOCK, MEDIA, Collection, Writer, mapped_vectors, writing
from .lexical import write_words
from .neighbours import FILES
from .rows import Model
from .segment import CONTENTS, Entry, Segment, contents_of
from .structures import build

MERGED = 8
"""Number of segments from which they are merged."""
Source = tuple[Collection, Sequence[int]]
"""Rows of a collection, by position."""


@dataclass(frozen=True)
class SegmentWriter:
    """Writes segments of an index.

    Args:
        folder: of the index.
        model: of the vectors.
        recall: target of the search structures.
    """

    folder: Path
    model: Model
    recall: float

    def write(
        self,
        name: str,
        tower: str,
        level: str,
        source: Source,
        fingerprints: Iterable[Sequence[int]] | None,
        queries_QD: np.ndarray,
    ) -> Entry:
        """Writes a segment of new rows.

        Args:
            name: of its folder.
            tower: of all rows.
            level: of all rows.
            source: of the rows.
            fingerprints: of the contents of the rows; none for pieces.
            queries_QD: to measure recall with.
        """
        return self._write(name, tower, level, [source], fingerprints, queries_QD, merged=False)

    def merge(self, name: str, segments: Sequence[Segment], queries_QD: np.ndarray) -> list[Entry]:
        """Writes a segment with the remaining rows of several.

        Args:
            name: of its folder.
            segments: of one tower and level.
            queries_QD: to measure recall with.

        Returns:
            Its entry; none if no row remains.
        """
        tower, level = segments[0].entry.tower, segments[0].entry.level
        sources = [(segment.collection, segment.alive.positions.tolist()) for segment in segments if len(segment)]
        if not sources:
            return []
        fingerprints = None if level else [each for segment in segments for each in _living_contents(segment)]
        return [self._write(name, tower, level, sources, fingerprints, queries_QD, merged=True)]

    def _write(
        self,
        name: str,
        tower: str,
        level: str,
        sources: Sequence[Source],
        fingerprints: Iterable[Sequence[int]] | None,
        queries_QD: np.ndarray,
        *,
        merged: bool,
    ) -> Entry:
        with writing(self.folder / name, self.model) as writer:
            for collection, positions in sources:
                _copy_rows(writer, collection, positions, merged=merged)
            writer.finish()
            write_words(writer.folder, Collection(writer.folder).rows())
            kind, tuning = build(mapped_vectors(writer.folder, self.model.dim), writer.folder, self.recall, queries_QD)
            files = set(FILES[kind])
            if fingerprints is not None:
                write_flushed(writer.folder / CONTENTS, array_bytes(contents_of(fingerprints)))
                files.add(CONTENTS)
            sums = {file: Sum.of_file(writer.folder / file) for file in files}
        count = sum(len(positions) for _, positions in sources)
        return Entry(name, tower, level, count, kind, sums=sums, tuning=tuning, contents=fingerprints is not None)


def _copy_rows(writer: Writer, collection: Collection, positions: Sequence[int], *, merged: bool) -> None:
    """Copies rows with their media, which get new names when segments are merged, as these have some in common."""
    names: dict[str, str] = {}
    for first in range(0, len(positions), BLOCK):
        block = positions[first : first + BLOCK]
        rows = []
        for row in collection.rows_at(block):
            path = collection.media(row)
            if merged and row.file:
                if row.file not in names:
                    names[row.file] = writer.media_of(path) if path else ""
                row = replace(row, file=names[row.file])
            elif path is not None:
                copy = writer.folder / MEDIA / row.file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            rows.append(row)
        writer.add(collection.vectors_ND[block], rows)


def _living_contents(segment: Segment) -> list[list[int]]:
    """Fingerprints of the contents of each remaining row."""
    fingerprints: dict[int, list[int]] = {position: [] for position in segment.alive.positions.tolist()}
    for fingerprint, position in segment.contents().tolist():
        if position in fingerprints:
            fingerprints[position].append(fingerprint)
    return list(fingerprints.values())


def small_segments(segments: Sequence[Segment]) -> Sequence[Segment]:
    """The latest segments of a tower and level that are to be merged, if any.

    There are :data:`MERGED` or more of them, and none has more than half of their rows: a row is written again at most
    once for each doubling.
    """
    counts = [len(segment) for segment in segments]
    for first in range(len(segments) - MERGED + 1):
        if 2 * max(counts[first:]) <= sum(counts[first:]):
            return segments[first:]
    return []


def is_current(segment: Segment) -> bool:
    """Whether a segment has the structure and the files that this version of the package writes."""
    return segment.entry.kind not in ("hnsw", "ivf") and bool(segment.entry.contents or segment.entry.level)
