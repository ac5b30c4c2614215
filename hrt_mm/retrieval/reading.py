"""Reading the samples to embed, in this process or in loader workers: tokenized, in batches of bounded size.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import BadSample
from ..core.tokens import Tokens
from ..data.dataset import Dataset
from ..data.files import check_regular, shown
from ..data.listing import Listed
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer
from ..inference.reading import TowerReader
from ..train.sampler import Plan, Position
from ..train.samples import Loaded, SampleReader
from ..train.workers import Workers, loader

CHUNK = 128
"""Maximum number of samples that are read, tokenized and written together."""
CHUNK_OF_VALUES = 16
"""The same where raw values come from workers: each tensor among them takes a file descriptor."""
CHUNK_BYTES = 16 << 20
"""Total size of the files of a chunk, above which it is not extended. Decoded they are many times larger."""
BATCH_TOKENS = 1 << 15
"""Maximum number of level-0 tokens in a batch of several samples."""


class Long:
    """Stands for the raw value of a file that is encoded in stretches."""


class Source(Dataset):
    """Samples to embed, by tower: ``value`` of each is a mapping. A value may be missing, or :class:`Long`.

    Attributes:
        stamps: of the samples: equal stamps mean equal rows. They are unique within a source.
    """

    stamps: Sequence[str]

    def title(self, index: int) -> str:
        """What a sample is called in messages."""
        return self.name(index)

    def bytes_of(self, index: int) -> int:
        """Size of a sample's file, 0 if unknown."""
        return 0

    def info(self, index: int, tower: str) -> dict[str, str]:
        """The texts to display for the value of a tower: those of :meth:`describe`, and its file."""
        texts = dict(self.describe(index))
        file = self.file_of(index, tower)
        return texts if file is None else texts | {"file": texts.get("file", shown(str(file)))}


class FileSource(Source):
    """Files, or texts and the bytes of files from tables, of one tower.

    Args:
        reader: of the tower.
        entries: what to read.
        stamps: of the entries.
        window: seconds of a long file that are encoded at once.
    """

    def __init__(self, reader: TowerReader, entries: Sequence[Listed], stamps: Sequence[str], window: float) -> None:
        self.reader, self.entries, self.stamps, self.window = reader, entries, stamps, window

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        if entry.text is not None:
            if not entry.text.strip():
                raise BadSample(entry.title, "its text is empty")
            value = self.reader.read(entry.text)
        else:
            path = entry.file()
            with suppress(OSError):  # a missing file is reported by its reader
                check_regular(path, entry.title)
            value = Long() if self.reader.divides(path, self.window) else self.reader.read(path)
        return Sample({self.reader.tower: value}, None, entry.name)

    def name(self, index: int) -> str:
        return self.entries[index].name

    def title(self, index: int) -> str:
        return self.entries[index].title

    def describe(self, index: int) -> Mapping[str, str]:
        return self.entries[index].info

    def bytes_of(self, index: int) -> int:
        try:
            return self.entries[index].size()
        except (OSError, ValueError):
            return 0


class SplitSource(Source):
    """The samples of a split of a run's data.

    Args:
        dataset: the split.
        stamps: of the samples.
    """

    def __init__(self, dataset: Dataset, stamps: Sequence[str]) -> None:
        self.dataset, self.stamps = dataset, stamps

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def describe(self, index: int) -> Mapping[str, str]:
        return self.dataset.describe(index)

    def file_of(self, index: int, tower: str) -> Path | None:
        return self.dataset.file_of(index, tower)


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Tokenized samples.

    Args:
        indices: of the samples.
        tokens: of all of them, packed.
    """

    indices: tuple[int, ...]
    tokens: Tokens


@dataclass(frozen=True, eq=False)
class Shown:
    """What a search shows of a value, and the value itself if its pieces are to be located.

    Args:
        info: texts to display.
        media: suffix and bytes of a file to display.
        value: the raw value, if requested.
    """

    info: Mapping[str, str]
    media: tuple[str, bytes] | None = None
    value: Any = None


@dataclass(frozen=True, eq=False)
class Chunk(Loaded):
    """Some samples, read and tokenized.

    Args:
        names: ids of the samples that were read, by index.
        batches: of each tower.
        shown: of each tower, what to display of each sample.
        long: of each tower, the samples that are encoded in stretches.
        unusable: samples left out, with the reasons.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    batches: Mapping[str, Sequence[TokenBatch]] = field(default_factory=dict)
    shown: Mapping[str, Mapping[int, Shown]] = field(default_factory=dict)
    long: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unusable: Sequence[tuple[int, str]] = ()


class ChunkReader(SampleReader):
    """Reads chunks.

    Args:
        source: the samples.
        readers: of the towers to embed.
        media: make files to display.
        values: return raw values.
    """

    def __init__(self, source: Source, readers: Mapping[str, TowerReader], *, media: bool, values: bool) -> None:
        super().__init__(source)
        self.source, self.readers = source, dict(readers)
        self.media, self.values = media, values

    def chunks(self, indices: Sequence[int], workers: int) -> Iterator[Chunk]:
        """Reads samples in chunks, in their order.

        Args:
            indices: of the samples.
            workers: number of loader processes; 0 reads in this one.
        """
        plans = self._plans(indices, CHUNK_OF_VALUES if workers and self.values else CHUNK)
        loaded: Iterator[Any] = Workers(self, plans, workers, False) if workers else iter(loader(self, plans, 0, False))
        for chunk in loaded:
            if chunk.error is not None:
                raise chunk.error
            yield chunk

    def _plans(self, indices: Sequence[int], limit: int) -> Iterator[Plan]:
        chunk: list[int] = []
        size = 0
        for index in indices:
            if chunk and (len(chunk) == limit or size + self.source.bytes_of(index) > CHUNK_BYTES):
                yield Plan(Position(), tuple(chunk), Position())
                chunk, size = [], 0
            chunk.append(index)
            size += self.source.bytes_of(index)
        if chunk:
            yield Plan(Position(), tuple(chunk), Position())

    def _load(self, plan: Plan) -> Chunk:
        unusable: list[tuple[int, str]] = []
        samples: dict[int, Sample] = {}
        for index in plan.indices:
            try:
                samples[index] = self._read(index)
            except BadSample as error:
                unusable.append((index, error.reason))
        batches: dict[str, list[TokenBatch]] = {}
        shown: dict[str, dict[int, Shown]] = {}
        long: dict[str, list[int]] = {}
        for tower, reader in self.readers.items():
            values = {
                index: sample.value[tower] for index, sample in samples.items() if sample.value.get(tower) is not None
            }
            long[tower] = [index for index, value in values.items() if isinstance(value, Long)]
            values = {index: value for index, value in values.items() if not isinstance(value, Long)}
            batches[tower], bad = _tokenized(reader.tokenizer, values)
            unusable += bad
            shown[tower] = {}
            for batch in batches[tower]:
                for index in batch.indices:
                    value = values[index]
                    media = reader.media(value) if self.media else None
                    shown[tower][index] = Shown(reader.text(value), media, value if self.values else None)
        names = {index: sample.name or self.source.name(index) for index, sample in samples.items()}
        return Chunk(plan, None, names=names, batches=batches, shown=shown, long=long, unusable=unusable)


def _tokenized(tokenizer: Tokenizer, values: Mapping[int, Any]) -> tuple[list[TokenBatch], list[tuple[int, str]]]:
    """Batches of at most :data:`BATCH_TOKENS` tokens, of samples of similar size, and what cannot be tokenized."""
    # Runs of equal length are computed together, so samples of a length belong in one batch.
    order = sorted(values, key=lambda index: (_volume(values[index]), index))
    bad: list[tuple[int, str]] = []
    if not order:
        return [], bad
    try:
        packed = [(order, tokenizer([values[index] for index in order]))]
    except BadSample:
        packed = []
        for index in order:
            try:
                packed.append(([index], tokenizer([values[index]])))
            except BadSample as error:
                bad.append((index, error.reason))
    return [batch for indices, tokens in packed for batch in _bounded(indices, tokens)], bad


def _bounded(indices: Sequence[int], tokens: Tokens) -> Iterator[TokenBatch]:
    lengths = tokens.spans.lengths.tolist()
    first, total = 0, 0
    for last, length in enumerate(lengths):
        if last > first and total + length > BATCH_TOKENS:
            yield TokenBatch(tuple(indices[first:last]), tokens.slice_samples(first, last))
            first, total = last, 0
        total += length
    batch = tokens if first == 0 else tokens.slice_samples(first, len(lengths))
    yield TokenBatch(tuple(indices[first:]), batch)


def _volume(value: Any) -> int:
    """Approximate size of a raw value: elements of its arrays, pixels, or characters."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, str | bytes):
        return len(value)
    if is_dataclass(value):
        return sum(_volume(item) for item in vars(value).values())
    size = getattr(value, "size", 0)  # of arrays and Pillow images
    return int(np.prod(size)) if isinstance(size, int | tuple) else 0
