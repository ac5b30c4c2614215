"""Settings of data whose rows can be streamed, and the stream of the samples of tar shards."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from pydantic import PositiveInt, model_validator

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.locations import Location, RemoteFile
from hrt_mm.data.sample import Sample
from hrt_mm.data.shards import ShardSource, row_of_sample
from hrt_mm.data.stream import InOrder, Retried, RowSource, StreamedDataset, UnreachableError
from hrt_mm.data.tables import Paths
from hrt_mm.data.tokenizer import Tokenizer

from .media import RowsConfig
from .splits import check_split
from .streaming import RowDataset, check_label

log = logging.getLogger(__name__)

SHUFFLE_BUFFER, EVAL_ROWS = 1024, 4096
"""Default numbers of rows of a stream that are shuffled among each other, and that are used of val and test."""


class StreamableConfig(RowsConfig):
    """Rows that may be read in order."""

    streaming: bool = False
    """Read the rows in order as they are needed, without a download or an index of the whole. The first rows of ``val``
    and ``test`` are read at the start; the data must have such splits."""
    shuffle_buffer: PositiveInt = SHUFFLE_BUFFER
    """Rows of a stream that are in memory and are shuffled among each other; 1 keeps their order."""
    stream_readers: PositiveInt | None = None
    """Logical readers of a stream, which divide its shards; batches depend on their number, and not on that of ranks.
    A rank reads the shards of its readers alone. 1 reads all shards in order, on every rank. When null, a run that
    starts on one rank reads in order, and one on several ranks by 16 readers or so."""
    eval_rows: PositiveInt = EVAL_ROWS
    """Rows of ``val`` and of ``test`` that are used of a stream. Their files are in memory."""
    classes: tuple[str, ...] = ()
    """All classes (or words, or characters) of the labels of a stream, if its features do not name them."""

    @model_validator(mode="after")
    def _streamable(self) -> Self:
        if not self.streaming:
            for key in ("shuffle_buffer", "stream_readers", "eval_rows", "classes"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no effect without streaming; drop it, or set streaming: true")
            return self
        for key in ("split_column", "group", "folds", "val", "test", "split_by", "split_seed", "join"):
            if key in type(self).model_fields and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with streaming, which reads the splits of the data; drop it")
        return self

    def build(self, split: str) -> Dataset:
        """The samples of a split.

        Raises:
            ConfigError: as without streaming; or a stream has no such split, or its classes are not known.
        """
        return self._streamed(split) if self.streaming else super().build(split)

    def plain(self, split: str) -> Dataset:
        """The samples of a split without random augmentation, for collections to be searched."""
        return self._streamed(split) if self.streaming else super().plain(split)

    @abstractmethod
    def _streamed(self, split: str) -> Dataset:
        """The stream of ``train``, or the first rows of another split."""

    def stream_classes(self, names: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
        """The classes of a stream.

        Args:
            names: by column, where the data names them.

        Raises:
            ConfigError: they are not known, or labels are no classes.
        """
        if self.label_column is None or self.label in ("text", "group", "numbers"):
            if self.classes:
                raise ConfigError("data.classes has no effect, as labels are no classes; drop it")
            return None
        (column,) = self.label_columns()
        if self.classes or column in names:
            return tuple(sorted(set(self.classes or names[column])))
        raise ConfigError(
            f"{self.where}: the features do not name the classes of {column!r}, and a stream is not read "
            "through to find them; list them in data.classes"
        )


class StreamedShards(StreamedDataset):
    """The samples of tar shards, which are read from their beginning to their end.

    Args:
        config: makes datasets of rows.
        shards: where they lie, by name.
        paths: that a shard of a name may have samples name.
        where: the source, for messages.
        cache: a folder that remote shards are copied to on first use, or ``None``.
        classes: names of the classes, or ``None``.
        shuffle_buffer: samples that are shuffled among each other.
        readers: logical readers of the shards; ``None`` to choose.
    """

    def __init__(
        self,
        config: RowDataset,
        shards: Mapping[str, Location],
        paths: Mapping[str, Paths],
        where: str,
        cache: Path | None,
        classes: tuple[str, ...] | None,
        shuffle_buffer: int,
        readers: int | None,
    ) -> None:
        self.config, self.where, self.cache = config, where, cache
        self.shards, self.locations, self.paths = tuple(shards), tuple(shards.values()), dict(paths)
        self.classes: tuple[str, ...] | None = classes
        self.shuffle_buffer, self.readers = shuffle_buffer, readers
        self._tokenizers: Mapping[str, Tokenizer] = {}

    def open(self, state: Any = None) -> RowSource:
        return InOrder(self.shards, self.open_shard, state, self.where)

    def open_shard(self, shard: int, state: Any = None) -> RowSource:
        def opened(state: Any) -> RowSource:
            location = self.locations[shard]
            if self.cache is not None and isinstance(location, RemoteFile):
                try:
                    location = location.fetch(self.cache)
                except FileNotFoundError:
                    pass  # named when it is opened
                except OSError as error:
                    raise UnreachableError(f"{location} cannot be copied to {self.cache}: {error}") from error
            return _NamedSource(location, self.shards[shard], state)

        return Retried(opened, state)

    def shape_of(self, number: int, row: Any) -> Sequence[int]:
        return self._dataset(row).shape(0)

    def read(self, number: int, row: Any) -> Sample:
        sample = self._dataset(row)[0]
        check_label(sample, self.classes, f"{row[0]}:{row[1]}")
        return sample

    def _dataset(self, row: Any) -> Dataset:
        """The sample of a row, as a dataset."""
        shard, key, contents = row
        location = f"{shard}:{key}"
        cells = row_of_sample(key, contents, shard)
        try:
            dataset = self.config.of_rows([(cells, location, self.paths[shard])], self.classes, training=True)
        except ConfigError as error:
            # A member that is missing is a mistake of this sample.
            raise BadSample(location, str(error).removeprefix(f"{location}: ")) from error
        dataset.limit_towers(self._tokenizers)
        return dataset

    def head(self, count: int) -> Dataset:
        """The first samples as a dataset in memory, without augmentation.

        Args:
            count: maximum number of samples.

        Raises:
            StreamError: they cannot be read.
        """
        source = self.open()
        rows = list(islice(source, count + 1))
        if len(rows) > count:
            log.warning("%s: the first %d samples are used; data.eval_rows sets their number", self.where, count)
        for shard in source.skipped():
            log.warning("skipping a broken shard: %s", shard)
        located = []
        for shard, key, contents in rows[:count]:
            try:
                located.append((row_of_sample(key, contents, shard), f"{shard}:{key}", self.paths[shard]))
            except BadSample as error:
                log.warning("left out: %s", error)
        return self.config.of_rows(located, self.classes, training=False)

    def name(self, index: int) -> str:
        """The shard and the number of the sample in it, or the number in the whole stream."""
        return self.row_name(index)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits what is read of each sample."""
        self._tokenizers = tokenizers


class _NamedSource(ShardSource):
    """The samples of a shard, each with the name of the shard."""

    def __next__(self) -> Any:
        return (self._name, *super().__next__())


def check_streamed_split(split: str, splits: Sequence[str], where: str) -> None:
    """Refuses a split that a stream does not have.

    Raises:
        ConfigError: names those that there are.
    """
    check_split(split)
    if split not in splits:
        raise ConfigError(f"{where} has no split {split}; it has {', '.join(splits) or 'none that are known'}")
