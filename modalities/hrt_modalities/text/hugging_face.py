"""Corpora of Hugging Face ``datasets``: saved in a folder, or downloaded by name. Needs that package."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig

from ..common.hugging_face import load_splits
from ..common.splits import Part, check_split, hash_split
from ..common.streamed_rows import EVAL_ROWS, SHUFFLE_BUFFER
from .corpus import Corpus, warn_of_left_out
from .sources import DocumentSource
from .streaming import StreamedTexts

_BATCH = 1 << 14
"""Rows whose lengths are read at once."""
_HELD_OUT = 0.05
"""Default fraction of the rows for validation, and for testing."""


class HuggingFaceRows(DocumentSource):
    """Documents that are rows, which stay on disk.

    Args:
        rows: a ``datasets.Dataset``.
        key: column of the text.
        indices: of the used rows, in order.
        sizes: of the texts in bytes.
    """

    def __init__(self, rows: Any, key: str, indices: np.ndarray, sizes: np.ndarray) -> None:
        super().__init__([f"row {index}" for index in indices], sizes.tolist())
        self.rows, self.key, self.indices = rows, key, indices

    def read(self, document: int, start: int, end: int) -> bytes:
        """Part of a row's text."""
        try:
            text: bytes = self.rows[int(self.indices[document])][self.key].encode()
        except (OSError, ValueError, IndexError, AttributeError) as error:
            raise BadSample(self.names[document], f"cannot be read: {error}") from error
        if len(text) != self.sizes[document]:
            raise BadSample(self.names[document], "is not what it was when the run began")
        return text[start:end]

    def select(self, documents: np.ndarray) -> HuggingFaceRows:
        """Some of the rows."""
        return HuggingFaceRows(self.rows, self.key, self.indices[documents], self.sizes[documents])


class HuggingFaceConfig(DatasetConfig):
    """Documents for language models from Hugging Face ``datasets``."""

    type: Literal["hugging_face"]
    path: str
    """A folder from ``save_to_disk``, a Parquet file or a folder of them, or the name of a dataset on the hub, which is
    downloaded."""
    subset: str | None = None
    """The configuration of a dataset on the hub, if it has several."""
    text_key: str = "text"
    """Column of the text."""
    val: Part | None = None
    """Fraction of the rows for validation, by a hash of their numbers, if the data has no such split; 0.05 when
    absent."""
    test: Part | None = None
    """Fraction of the rows for testing, likewise."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the hash."""
    context: PositiveInt = 2048
    """Tokens of a window where tokens are bytes. Other tokenizers get texts of as many bytes."""
    streaming: bool = False
    """Read the rows in order as they are needed, without a download of the whole. Windows are consecutive then. The
    first windows of ``val`` and ``test`` are read at the start; the data must have such splits."""
    shuffle_buffer: PositiveInt = SHUFFLE_BUFFER
    """Windows of a stream that are in memory and are shuffled among each other; 1 keeps their order."""
    stream_readers: PositiveInt | None = None
    """Logical readers of a stream, which divide its shards; batches depend on their number, and not on that of ranks.
    A rank reads the shards of its readers alone. 1 reads all shards in order, on every rank. When null, a run that
    starts on one rank reads in order, and one on several ranks by 16 readers or so."""
    eval_rows: PositiveInt = EVAL_ROWS
    """Windows of ``val`` and of ``test`` that are used of a stream. They are in memory."""

    @model_validator(mode="after")
    def _streamable(self) -> Self:
        keys = ("val", "test", "split_seed") if self.streaming else ("shuffle_buffer", "stream_readers", "eval_rows")
        for key in keys:
            if getattr(self, key) != type(self).model_fields[key].default:
                how = "with streaming, which reads the splits of the data" if self.streaming else "without streaming"
                raise ValueError(f"{key} has no effect {how}; drop it")
        if self.streaming and self.context < 2:
            raise ValueError(f"context {self.context} leaves nothing to predict; it must be 2 or more")
        return self

    def build(self, split: str) -> Dataset:
        """The windows of a split.

        Raises:
            ConfigError: the package is missing, there is no such data or column, or the split is empty.
        """
        return self._streamed(split) if self.streaming else self._corpus(split)

    def _streamed(self, split: str) -> Dataset:
        check_split(split)
        splits = load_splits(self.path, self.subset, streaming=True)
        if split not in splits:
            available = ", ".join(splits) or "none that are known"
            raise ConfigError(f"data.path {self.path} has no split {split}; it has {available}")
        rows = splits[split]
        stream = StreamedTexts(
            rows, self.path, split, self.text_key, self.context, self.shuffle_buffer, self.stream_readers
        )
        return stream if split == "train" else stream.head(self.eval_rows)

    def _corpus(self, split: str) -> Corpus:
        check_split(split)
        splits = load_splits(self.path, self.subset)
        for name in ("val", "test"):
            if name in splits and getattr(self, name) is not None:
                raise ConfigError(
                    f"data.{name} {getattr(self, name):g} has no effect, as {self.path} has a split of its own; drop it"
                )
        if self.split_seed and "val" in splits and "test" in splits:
            raise ConfigError(
                f"data.split_seed {self.split_seed} has no effect, as {self.path} has splits of its own; drop it"
            )
        rows = splits.get(split) if split in splits else splits.get("train")
        if rows is None:
            raise ConfigError(f"data.path {self.path} has no training split; it has {', '.join(splits)}")
        source = self._source(rows)
        if split == "train":
            warn_of_left_out(source, f"data.path {self.path}")
        if split == "train" or split not in splits:
            val, test = (
                0.0 if name in splits else part or _HELD_OUT for name, part in (("val", self.val), ("test", self.test))
            )
            keep = [
                index
                for index, name in enumerate(source.names)
                if hash_split(name, val, test, self.split_seed) == split
            ]
            source = source.select(np.array(keep, dtype=np.int64))
        if not len(source.sizes):
            raise ConfigError(f"data.path {self.path} has no text for the {split} split")
        return Corpus(source, self.context, training=split == "train")

    def _source(self, rows: Any) -> HuggingFaceRows:
        if self.text_key not in rows.column_names:
            have = ", ".join(rows.column_names)
            raise ConfigError(
                f"data.path {self.path} has no column {self.text_key!r}; it has {have}. Set data.text_key"
            )
        arrow: Any = import_module("pyarrow.compute")
        lengths = []
        for table in rows.select_columns(self.text_key).with_format("arrow").iter(_BATCH):
            column = table.column(self.text_key)
            try:
                lengths.append(arrow.fill_null(arrow.binary_length(column), 0).to_numpy())
            except NotImplementedError as error:
                raise ConfigError(f"data.text_key {self.text_key!r} holds {column.type}, not text") from error
        sizes = np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, dtype=np.int64)
        indices = np.flatnonzero(sizes)
        source = HuggingFaceRows(rows, self.text_key, indices, sizes[indices])
        source.empty = [f"row {index}" for index in np.flatnonzero(sizes == 0)]
        return source
