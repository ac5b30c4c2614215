"""Embedding as a job: collections of the samples of a split, of files, or of texts in tables.

Samples are read in chunks, encoded in batches and written in their order. A job that is interrupted continues where it
was; see :mod:`hrt_mm.retrieval.partial`.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadSample, ConfigError, UserError, printable
from ..data.capabilities import BoxLocating, Divisible, positions_at
from ..data.dataset import Dataset
from ..data.listing import Listed
from ..data.progress import counted
from ..data.skipped import warn_of_skipped
from ..inference.reading import MAX_TEXT
from .collection import Writer
from .known import KnownRows
from .partial import PartialWriter, resuming
from .passages import Passages, parents
from .reading import Chunk, ChunkReader, FileSource, Shown, Source, SplitSource
from .rows import Row, not_comparable
from .vector_encoder import VectorEncoder

log = logging.getLogger(__name__)

PLAYABLE = frozenset((".mp4", ".webm", ".wav", ".mp3", ".flac", ".ogg"))
"""Suffixes of long files that are kept as they are to be played, by a hard link where the file system has them."""
WINDOW = 8.0
"""Seconds of a long video that are encoded at once; about as long as the videos that models are trained on."""
MAX_INFO = 32_768
"""Maximum bytes of all texts to display of a sample, about half of the maximum size of a row."""
MAX_ID = 8_192
"""Maximum bytes of a sample's id."""


@dataclass(frozen=True)
class Options:
    """How samples are embedded.

    Args:
        media: save images, sounds and videos, to display them in search results.
        levels: to embed the pieces of too, for towers that have them.
        window: seconds of a long video that are encoded at once.
        workers: processes that read files; 0 for none.
        restart: discard what an interrupted job has written, instead of continuing it.

    Raises:
        UserError: the window is not positive, or the number of workers is negative.
    """

    media: bool = False
    levels: Sequence[str] = ()
    window: float = WINDOW
    workers: int = 0
    restart: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.window < math.inf:
            raise UserError(
                f"a window of {self.window:g} seconds cannot be encoded; give more than 0, such as {WINDOW:g}"
            )
        if self.workers < 0:
            raise UserError(f"{self.workers} workers are not possible; give 0 or more")

    def of_rows(self) -> dict[str, Any]:
        """The options that determine the rows."""
        return {"media": self.media, "levels": sorted(set(self.levels)), "window": self.window}


@dataclass
class Outcome:
    """What became of a job.

    Attributes:
        counts: vectors in the collection, by tower.
        resumed: samples that an interrupted job had embedded.
        known: samples that were skipped, as they are known.
        changed: ids of known samples that have changed, and were embedded anew.
        left_out: samples that could not be embedded, by reason.
    """

    counts: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    known: int = 0
    changed: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Records a sample that cannot be embedded."""
        self.left_out.setdefault(reason, []).append(name)

    def warn(self, total: int) -> None:
        """Logs the samples that were left out, once for each reason."""
        warn_of_skipped(log, self.left_out, total)


def check_levels(embedder: VectorEncoder, towers: Sequence[str], levels: Sequence[str]) -> None:
    """Checks that at least one tower has pieces of each level.

    Raises:
        UserError: names the level, and those available.
    """
    available = {tower: list(embedder.levels(tower)) for tower in towers}
    for level in levels:
        if all(level not in names for names in available.values()):
            listed = "; ".join(f"{tower}: {', '.join(names) or 'none'}" for tower, names in available.items())
            raise UserError(
                f"there are no pieces of level {level!r} ({listed}); training compares the levels of task.level and "
                "task.also alone"
            )


def embed_split(
    embedder: VectorEncoder,
    split: str,
    towers: Sequence[str],
    folder: str | Path,
    *,
    known: KnownRows | None = None,
    **options: Any,
) -> Outcome:
    """Writes a collection of the samples of a split.

    Args:
        embedder: the model.
        split: of the run's data.
        towers: whose values to embed.
        folder: of the collection; must not exist.
        known: rows to skip if nothing of the sample's files, its columns and the options has changed.
        options: see :class:`Options`.

    Raises:
        UserError: a tower is unknown, or no sample can be embedded.
    """
    dataset = embedder.dataset(split)
    settings = Options(**options)
    source = SplitSource(dataset, _stamps_of_split(dataset, embedder.towers, settings))
    job = _Job(embedder, source, towers, settings, known or KnownRows())
    return job.write(Path(folder), f"samples of the {split} split")


def embed_files(
    embedder: VectorEncoder,
    tower: str,
    files: Sequence[str | Path | Listed],
    folder: str | Path,
    *,
    known: KnownRows | None = None,
    **options: Any,
) -> Outcome:
    """Writes a collection of files, or of texts from tables. Those that cannot be read are left out with a warning.

    Args:
        embedder: the model.
        tower: that reads the files.
        files: to embed.
        folder: of the collection; must not exist.
        known: rows to skip if nothing of the file, its columns and the options has changed.
        options: see :class:`Options`.

    Raises:
        UserError: no file can be embedded, or the tower or a level is unknown.
    """
    settings = Options(**options)
    entries = [file if isinstance(file, Listed) else Listed.of(Path(file)) for file in files]
    stamps = [_stamp(entry, settings) for entry in entries]
    source = FileSource(embedder.reader(tower), entries, stamps, settings.window)
    job = _Job(embedder, source, [tower], settings, known or KnownRows())
    return job.write(Path(folder), "files")


def _stamp(entry: Listed, options: Options) -> str:
    """The stamp of a file or a text, which changes with its content, its columns and the options."""
    content: Any = entry.text
    if content is None:
        content = _state(entry.path) if entry.content is None else entry.content.identity
    return _digest([entry.name, str(entry.path), content, dict(entry.info), options.of_rows()])


def _stamps_of_split(dataset: Dataset, towers: Sequence[str], options: Options) -> list[str]:
    """The stamps of the samples of a split, which change with their files, their columns and the options."""
    occurrences: Counter[str] = Counter()
    stamps = []
    for index in range(len(dataset)):
        name = dataset.name(index)
        files = [dataset.file_of(index, tower) for tower in towers]
        states = [None if file is None else [str(file), _state(file)] for file in files]
        # Stamps are unique also where names are not.
        stamps.append(_digest([name, occurrences[name], states, dict(dataset.describe(index)), options.of_rows()]))
        occurrences[name] += 1
    return stamps


def _state(path: Path) -> list[int] | None:
    """Size and modification time of a file, by which its content is judged."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # an error once the file is read
    return [status.st_size, status.st_mtime_ns]


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


@dataclass
class _Job:
    """Embeds a source.

    Args:
        embedder: the model.
        source: the samples.
        towers: whose values are embedded.
        options: how.
        known: rows to skip.
    """

    embedder: VectorEncoder
    source: Source
    towers: Sequence[str]
    options: Options
    known: KnownRows

    def __post_init__(self) -> None:
        check_levels(self.embedder, self.towers, self.options.levels)
        self.readers = {tower: self.embedder.reader(tower) for tower in self.towers}
        self.outcome = Outcome()
        self.skipped: set[tuple[int, str]] = set()
        self.written = 0

    def write(self, folder: Path, what: str) -> Outcome:
        """Writes the collection.

        Args:
            folder: of the collection.
            what: names the samples in messages.
        """
        self.known.check(self.embedder.model)
        settings = {"towers": list(self.towers), **self.options.of_rows()}
        with resuming(folder, self.embedder.model, settings, restart=self.options.restart) as writer:
            pending = self._pending(writer)
            reader = ChunkReader(self.source, self.readers, media=self.options.media, values=bool(self.options.levels))
            with counted(len(pending), "embedding") as advance:
                for chunk in reader.chunks(pending, self.options.workers):
                    self._write(writer, chunk)
                    writer.commit()
                    advance(len(chunk.plan.indices))
            self.outcome.warn(len(self.source))
            if not (self.written or self.outcome.resumed or self.outcome.known):
                raise UserError(f"none of {len(self.source):,} {what} can be embedded as {', '.join(self.towers)}")
        self.outcome.counts = dict(writer.counts)
        return self.outcome

    def _pending(self, writer: PartialWriter) -> list[int]:
        """The samples to embed: those that are neither written nor known."""
        names = [self.source.name(index) for index in range(len(self.source))]
        changed: set[str] = set()
        for tower in self.towers:
            known = self.known.stamps(tower, names)
            for index, (name, stamp) in enumerate(zip(names, self.source.stamps, strict=True)):
                if name in known and known[name] in ("", stamp):
                    self.skipped.add((index, tower))
                    continue
                if name in known:
                    changed.add(name)
                writer.wanted.add((tower, stamp))
                if (tower, stamp) in writer.written:
                    self.skipped.add((index, tower))
                    self.outcome.resumed += 1
        pending = [
            index for index in range(len(names)) if any((index, tower) not in self.skipped for tower in self.towers)
        ]
        self.outcome.known = len(names) * len(self.towers) - len(writer.wanted)
        self.outcome.changed = sorted(changed)
        return pending

    def _write(self, writer: PartialWriter, chunk: Chunk) -> None:
        """Encodes a chunk, and writes its rows in the order of the samples."""
        for index, reason in chunk.unusable:
            self.outcome.leave_out(self.source.title(index), reason)
        for tower in self.towers:
            embedded: dict[int, EmbeddedSample] = {}
            for batch in chunk.batches[tower]:
                vectors_ND, passages = self.embedder.encode(tower, batch.tokens, self.options.levels)
                for index, vector_D, pieces in zip(batch.indices, vectors_ND, passages, strict=True):
                    embedded[index] = EmbeddedSample(chunk.shown[tower][index], vector_D, pieces)
            for index in sorted([*embedded, *chunk.long[tower]]):
                if (index, tower) in self.skipped:
                    continue
                try:
                    sample = embedded[index] if index in embedded else self._embed_long(tower, index)
                    self._add(writer, tower, index, chunk.names[index], sample)
                    self.written += 1
                except BadSample as error:
                    self.outcome.leave_out(self.source.title(index), error.reason)

    def _embed_long(self, tower: str, index: int) -> EmbeddedSample:
        assert isinstance(self.source, FileSource)
        reader, path = self.readers[tower], self.source.entries[index].file()
        modality = reader.modality
        stretches = (
            modality.stretches(path, reader.tokenizer, self.options.window) if issubclass(modality, Divisible) else None
        )
        if stretches is None:
            raise BadSample(self.source.title(index), "changed while it was read")
        value, vector_D, passages = self.embedder.embed_stretches(
            tower, stretches, self.options.levels, media=self.options.media
        )
        # A rendered file would end with the first stretch, and the times of later pieces would lie beyond it.
        file = path if self.options.media and path.suffix.lower() in PLAYABLE else None
        media = reader.media(value) if self.options.media and file is None else None
        return EmbeddedSample(Shown(reader.text(value), media, value), vector_D, passages, file)

    def _add(self, writer: Writer, tower: str, index: int, name: str, sample: EmbeddedSample) -> None:
        """Writes the rows of a sample and its pieces; none of them after an error.

        Raises:
            BadSample: the id is too long, or a vector is not finite.
        """
        if (size := len(name.encode("utf-8", "replace"))) > MAX_ID:
            raise BadSample(f"{name[:80]}...", f"its id has {size:,} bytes; it may have {MAX_ID:,}")
        if reason := next(filter(None, (not_comparable(vectors_ND)[1] for vectors_ND in sample.vectors())), ""):
            raise BadSample(f"{name:.80}", f"a vector of it {reason}")
        described = self.source.info(index, tower) or {"name": name}
        # A text from a column is displayed under the name of the column.
        columns = {text[:MAX_TEXT] for text in described.values()}
        texts = {key: text for key, text in sample.shown.info.items() if text[:MAX_TEXT] not in columns}
        info = _truncate({**texts, **described}, name)
        file = writer.media(*sample.shown.media) if sample.shown.media else ""
        if sample.file is not None:
            file = writer.media_of(sample.file)
        rows = [Row(name, tower, file=file, info=info, stamp=self.source.stamps[index])]
        names = [name]
        for pieces, parent_indices in zip(sample.passages, parents(sample.passages), strict=True):
            parent_names = [name if parent is None else names[parent] for parent in parent_indices]
            level_rows = self._rows_of(writer, rows[0], sample, pieces, parent_names)
            rows += level_rows
            names = [row.id for row in level_rows]
        writer.add(np.concatenate(sample.vectors()), rows)

    def _rows_of(
        self,
        writer: Writer,
        whole: Row,
        sample: EmbeddedSample,
        pieces: Passages,
        parent_names: Sequence[str],
    ) -> list[Row]:
        """The rows of the pieces of a sample at a level, whose media are written."""
        reader, value, tower = self.readers[whole.tower], sample.shown.value, whole.tower
        timed = pieces.edges_N2A.shape[2] == 1
        files = pieces.media
        if self.options.media and timed and not files:
            files = self.embedder.media(tower, value, pieces.edges_N2A)
        rows = []
        for number, (edges_2A, parent) in enumerate(zip(pieces.edges_N2A, parent_names, strict=True)):
            row = Row(f"{whole.id}/{pieces.level}/{number}", tower, level=pieces.level, parent=parent)
            if timed:
                first, last = positions_at(reader.tokenizer, value, edges_2A[:, 0].tolist())
                media = files[number] if files else None
                file = writer.media(*media) if media else ""
                text = reader.text(value, (first, last))
                rows.append(replace(row, span=(round(first, 4), round(last, 4)), info=text, file=file))
                continue
            if not isinstance(reader.tokenizer, BoxLocating):
                raise ConfigError(f"{type(reader.tokenizer).__name__} reads no pictures")
            box = reader.tokenizer.box(value, edges_2A.flatten().tolist())
            rows.append(replace(row, box=box, file=whole.file))
        return rows


@dataclass(frozen=True, eq=False)
class EmbeddedSample:
    """A sample with its vectors.

    Args:
        shown: what to display of it.
        vector_D: of the sample.
        passages: its pieces, coarse to fine.
        file: to display instead of ``shown.media``, if any.
    """

    shown: Shown
    vector_D: np.ndarray
    passages: Sequence[Passages]
    file: Path | None = None

    def vectors(self) -> list[np.ndarray]:
        """(N, D) vectors: that of the sample, and those of the pieces at each level."""
        return [self.vector_D[None], *(level.vectors_ND for level in self.passages)]


def _truncate(info: Mapping[str, str], name: str) -> dict[str, str]:
    """Shortens texts so that a row can hold them, with a warning."""
    truncated: dict[str, str] = {}
    remaining, cut = MAX_INFO, []
    for column, text in info.items():
        # JSON writes a control character as six bytes.
        size = len(json.dumps(column)) + len(json.dumps(text))
        if size > remaining:
            cut.append(column)
            if remaining < MAX_TEXT or len(column) > MAX_TEXT:
                continue
            text = f"{text[: min(MAX_TEXT, remaining // 8)]}..."
        truncated[printable(column)] = printable(text)
        remaining -= len(json.dumps(column)) + len(json.dumps(text))
    if cut:
        log.warning("%s: truncated, as it is too long: %s", name, ", ".join(map(repr, cut[:5])))
    return truncated
