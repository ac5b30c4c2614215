"""Windows over the texts of a stream of documents, as they come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Any

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.stream import RowSource, StreamedDataset, StreamError, shard_and_row

from ..common.streaming import HuggingFaceShards
from .text import Text

log = logging.getLogger(__name__)

_CONTEXT_BYTES = 3
"""Bytes on both sides of a window that complete characters, as the longest has 4 bytes."""


class WindowSource(RowSource):
    """Consecutive windows over documents, each of which begins with a separator.

    Windows overlap by one token, so that every token but the first is predicted exactly once. The state is that of the
    documents before the one where the next window starts, and the tokens of this document that are skipped.

    Args:
        documents: rows with a text.
        key: column of the text.
        context: tokens of a window, where tokens are bytes.
        state: where to go on; the beginning when ``None``.
        where: the source, for messages.
    """

    def __init__(self, documents: RowSource, key: str, context: int, state: Any, where: str) -> None:
        self._documents, self._key, self._context, self._where = documents, key, context, where
        self._skip: int = 0 if state is None else state["skip"]
        self._started = state is not None
        # State of the documents before the current one; None is their beginning.
        self._before: Any = None if state is None else state["documents"]
        self._read = False
        self._has_states = True
        self._text: bytes | None = None
        # In tokens of the document: its separator is the first.
        self._position = 0

    def __next__(self) -> Text:
        parts: list[bytes] = []
        starts: list[int] = []
        tokens = length = 0
        before = after = b""
        while tokens < self._context:
            if self._text is None or self._position > len(self._text):
                try:
                    self._next_document()
                except StopIteration:
                    # A single token overlaps with the window before, and is nothing new.
                    if tokens > 1 or (tokens and not self._started):
                        break
                    raise
            assert self._text is not None
            end = min(self._position + self._context - tokens, 1 + len(self._text))
            if self._position == 0:
                starts.append(length)
            first, last = max(0, self._position - 1), end - 1
            if not parts and not starts:
                before = self._text[max(0, first - _CONTEXT_BYTES) : first]
            if last > first:
                parts.append(self._text[first:last])
                after = self._text[last : last + _CONTEXT_BYTES]
            tokens, length, self._position = tokens + end - self._position, length + last - first, end
        self._started = True
        self._position -= 1
        return Text(b"".join(parts), tuple(starts), around=(before, after))

    def _next_document(self) -> None:
        while True:
            before = self._documents.state() if self._read else self._before
            self._has_states &= before is not None or not self._read
            row = next(self._documents)
            self._before, self._read = before, True
            text = row.get(self._key)
            if text is not None and not isinstance(text, str):
                raise StreamError(
                    f"{self._where}: {self._key} holds {type(text).__name__}, not text; set data.text_key"
                )
            if text:
                self._text, self._position, self._skip = text.encode("utf-8", "replace"), self._skip, 0
                return

    def state(self) -> Any:
        return {"documents": self._before, "skip": self._position} if self._has_states else None

    def skipped(self) -> list[BadSample]:
        return self._documents.skipped()


class StreamedTexts(StreamedDataset):
    """Windows over the rows of a ``datasets.IterableDataset``.

    Args:
        rows: the dataset.
        path: of the dataset, for messages.
        split: of the dataset.
        key: column of the text.
        context: tokens of a window, where tokens are bytes.
        shuffle_buffer: windows that are shuffled among each other.
        readers: logical readers of the shards, in which windows begin anew; ``None`` to choose.

    Raises:
        ConfigError: there is no such column.
    """

    def __init__(
        self,
        rows: Any,
        path: str,
        split: str,
        key: str,
        context: int,
        shuffle_buffer: int,
        readers: int | None = None,
    ) -> None:
        self.path, self.split, self.key, self.context = path, split, key, context
        self.source: HuggingFaceShards | None = HuggingFaceShards(rows, path, split)
        self.where, self.shards = self.source.where, self.source.names
        self.shuffle_buffer, self.readers = shuffle_buffer, readers
        if rows.column_names is not None and key not in rows.column_names:
            have = ", ".join(rows.column_names)
            raise ConfigError(f"data.path {path} has no column {key!r}; it has {have}. Set data.text_key")

    def open(self, state: Any = None) -> WindowSource:
        assert self.source is not None
        documents = self.source.in_order(None if state is None else state["documents"])
        return WindowSource(documents, self.key, self.context, state, self.where)

    def open_shard(self, shard: int, state: Any = None) -> WindowSource:
        assert self.source is not None
        documents = self.source.open(shard, None if state is None else state["documents"])
        return WindowSource(documents, self.key, self.context, state, self.where)

    def shape_of(self, number: int, row: Any) -> Sequence[int]:
        """(tokens, 0)."""
        return len(row.content) + len(row.documents), 0

    def read(self, number: int, row: Any) -> Sample:
        return Sample(row, None, self.name(number))

    def name(self, index: int) -> str:
        """The dataset, the split, and the window, with its shard where shards are read apart."""
        shard, _ = shard_and_row(index)
        return f"{self.path}:{self.split}:window {index}" if shard is None else self.row_name(index)

    def head(self, count: int) -> Dataset:
        """The first windows as a dataset in memory.

        Args:
            count: maximum number of windows.

        Raises:
            StreamError: they cannot be read.
        """
        windows = list(islice(self.open(), count + 1))
        if len(windows) > count:
            log.warning("%s: the first %d windows are used; data.eval_rows sets their number", self.where, count)
        return TextWindows([Sample(window, None, self.name(number)) for number, window in enumerate(windows[:count])])

    def __getstate__(self) -> dict[str, Any]:
        # Workers do not read rows.
        return {**self.__dict__, "source": None}


class TextWindows(Dataset):
    """Windows in memory."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def name(self, index: int) -> str:
        return self.samples[index].name

    def shape(self, index: int) -> Sequence[int]:
        """(tokens, 0)."""
        text = self.samples[index].value
        return len(text.content) + len(text.documents), 0
