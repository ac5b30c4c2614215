"""Hugging Face ``datasets``: splits that are saved in a folder, in Parquet or on the hub, and their rows with files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.contained import FileCell
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.splits import split_name, split_name_forms
from hrt_mm.data.tables import Paths, is_missing, lacking

from .media import AnyRowItem
from .streamed_rows import StreamableConfig, check_streamed_split
from .streaming import StreamedRows, class_names, undecoded
from .tables import Row, SplitColumn

log = logging.getLogger(__name__)

_ROWS = 1024
"""Rows that are read at once."""

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv"}
"""Builders of ``datasets`` by the suffix of a file; others are Parquet."""


def load_splits(path: str, subset: str | None = None, *, streaming: bool = False) -> dict[str, Any]:
    """The splits of a dataset, as ``datasets.Dataset`` by ``train``, ``val`` and ``test``; ``train`` if it has none.

    Code of a dataset is never run: ``datasets`` reads files of data alone.

    Args:
        path: a folder from ``save_to_disk``, a Parquet, JSON or CSV file, a folder of Parquet files, or the name of a
            dataset on the hub. Streams may also be of other folders that ``datasets`` loads, such as those of images.
        subset: the configuration of a dataset on the hub.
        streaming: give each split as ``datasets.IterableDataset``, with media that are not decoded.

    Raises:
        ConfigError: the package is missing, there is no such dataset, or two of its splits have one meaning.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise ConfigError(
            "data.type hugging_face needs the package datasets: pip install 'hrt-mm[data]'. "
            "Files and folders are read without it, by the other types of data"
        ) from error
    try:
        folder = Path(path)
        # The files that save_to_disk writes.
        markers = ("dataset_dict.json", "dataset_info.json", "state.json")
        was_saved = any((folder / marker).exists() for marker in markers)
        if folder.is_file():
            builder = _BUILDERS.get(folder.suffix.lower(), "parquet")
            dataset = datasets.load_dataset(builder, data_files={"train": path}, streaming=streaming)
        elif folder.is_dir() and not was_saved and next(folder.rglob("*.parquet"), None):
            # Splits follow from the names, such as data/train-00000-of-00001.parquet.
            dataset = datasets.load_dataset("parquet", data_dir=path, streaming=streaming)
        elif folder.exists() and (was_saved or not streaming):
            dataset = datasets.load_from_disk(path)
        else:
            dataset = datasets.load_dataset(path, subset, streaming=streaming)
    except Exception as error:
        # The package raises many kinds of exceptions, including those of the network.
        raise ConfigError(
            f"data.path {path!r} is neither a folder that save_to_disk wrote nor a dataset that can be "
            f"fetched, nor Parquet: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(dataset, Mapping):
        dataset = {"train": dataset}
    if streaming:
        dataset = {
            name: undecoded(rows.to_iterable_dataset() if hasattr(rows, "to_iterable_dataset") else rows)
            for name, rows in dataset.items()
        }
    splits: dict[str, str] = {}
    for name in dataset:
        split = split_name(name)
        if split is None:
            log.warning("data.path %s: split %s is not read; known are %s", path, name, split_name_forms())
        elif splits.setdefault(split, name) != name:
            raise ConfigError(
                f"data.path {path} has two splits {splits[split]!r} and {name!r} that both are {split}; "
                "rename one of them"
            )
    return {split: dataset[name] for split, name in splits.items()}


class HuggingFaceFiles:
    """The files in a column of a dataset, which stays on disk.

    Args:
        rows: a ``datasets.Dataset``.
        column: of binary values, or of images, sounds or videos.
    """

    def __init__(self, rows: Any, column: str) -> None:
        self.rows, self.column = rows.select_columns([column]).with_format("arrow"), column

    @property
    def identity(self) -> str:
        """The fingerprint of the dataset, and the column."""
        return f"{self.rows._fingerprint} {self.column}"

    def read(self, key: int) -> bytes:
        """The bytes in a row.

        Raises:
            ValueError: the row has none, or the file of the dataset is damaged.
        """
        try:
            value = self.rows[key].column(0)[0].as_py()
        except Exception as error:
            # Arrow raises exceptions of its own for damaged files.
            raise ValueError(str(error)) from error
        if isinstance(value, dict):
            value = value["bytes"]
        if not isinstance(value, bytes):
            raise ValueError("the cell has no bytes")
        return value

    def size(self, key: int) -> int:
        """Average size of the cells, in bytes."""
        return int(self.rows.data.nbytes) // max(1, len(self.rows))


def rows_with_files(rows: Any) -> Iterator[Row]:
    """The rows of a ``datasets.Dataset``.

    Cells with bytes are :class:`~hrt_mm.data.contained.FileCell`; images, sounds and videos without bytes are their
    paths. Classes are their names.
    """
    types: Any = import_module("pyarrow.types")
    media = {}
    for field in rows.features.arrow_schema:
        inside = [child.name for child in field.type] if types.is_struct(field.type) else []
        if "bytes" in inside or types.is_binary(field.type) or types.is_large_binary(field.type):
            media[field.name] = HuggingFaceFiles(rows, field.name)
    names = {
        column: feature.names
        for column, feature in rows.features.items()
        if getattr(feature, "names", None) and hasattr(feature, "int2str")
    }
    number = 0
    for table in rows.with_format("arrow").iter(_ROWS):
        # Bytes are not read, only whether there are any.
        plain = table.select([column for column in table.column_names if column not in media])
        cells = plain.to_pylist() if plain.num_columns else [{} for _ in range(table.num_rows)]
        files = {column: _file_cells(table.column(column), source, number) for column, source in media.items()}
        for index, row in enumerate(cells):
            for column, labels in names.items():
                label = row[column]
                row[column] = labels[label] if isinstance(label, int) and 0 <= label < len(labels) else None
            yield row | {column: values[index] for column, values in files.items()}
        number += table.num_rows


def _file_cells(column: Any, source: HuggingFaceFiles, number: int) -> list[Any]:
    """The cells of files: their bytes, else their paths, else ``None``."""
    if column.type.num_fields == 0:
        return [FileCell(source, number + index) if valid else None for index, valid in _enumerated(column.is_valid())]
    combined = column.combine_chunks()
    children = dict(zip((field.name for field in column.type), combined.flatten(), strict=True))
    paths = children["path"].to_pylist() if "path" in children else [None] * len(combined)
    return [
        FileCell(source, number + index) if valid else paths[index]
        for index, valid in _enumerated(children["bytes"].is_valid())
    ]


def _enumerated(mask: Any) -> Iterator[tuple[int, bool]]:
    return enumerate(mask.to_pylist())


class HuggingFaceRowsConfig(StreamableConfig):
    """Rows of Hugging Face ``datasets`` (extra ``data``)."""

    path: str
    """A folder from ``save_to_disk``, a Parquet, JSON or CSV file, a folder of Parquet files, or the name of a dataset
    on the hub, which is downloaded. Streams may also be of other folders that ``datasets`` loads, such as those of
    images. Code of datasets is never run."""
    subset: str | None = None
    """The configuration of a dataset on the hub, if it has several."""
    split_column: str | None = None
    """Column of the split, if the data has no splits of its own; null to split by class and seed."""

    def _streamed(self, split: str) -> Dataset:
        splits = load_splits(self.path, self.subset, streaming=True)
        check_streamed_split(split, tuple(splits), self.where)
        rows = splits[split]
        classes = self.stream_classes(class_names(rows))
        stream = StreamedRows(self, rows, self.path, split, classes, self.shuffle_buffer, self.stream_readers)
        return stream if split == "train" else stream.head(self.eval_rows)

    @property
    def home(self) -> Path:
        return Path(self.path) if Path(self.path).is_dir() else Path(self.path).parent

    @property
    def where(self) -> str:
        return f"data.path {self.path}"

    def items_by_split(
        self, columns: Sequence[str], keys: Sequence[str], item: Callable[[Row, str, Paths], AnyRowItem]
    ) -> tuple[dict[str, list[AnyRowItem]], str | None]:
        if self.streaming:
            raise ConfigError(f"{self.where} is a stream, whose splits are not listed; set data.streaming: false")
        splits = load_splits(self.path, self.subset)
        if "train" not in splits:
            raise ConfigError(
                f"{self.where} has no training split; it has {', '.join(splits) or 'none that are known'}"
            )
        self._has_splits = has_splits = len(splits) > 1
        if has_splits and self.split_column is not None:
            raise ConfigError(f"data.split_column {self.split_column} has no effect: {self.where} has splits; drop it")
        settings = ", ".join(f"data.{key}" for key in (*keys, "group", "folds"))
        columns = [*columns, *self.split_columns()]
        items: dict[str, list[AnyRowItem]] = {}
        sides = SplitColumn(self.split_column, self.path)
        for split, rows in splits.items():
            if missing := [column for column in columns if column not in rows.column_names]:
                have = ", ".join(rows.column_names)
                raise ConfigError(f"{self.where} has no column {missing[0]!r}; it has {have}. Set {settings}")
            paths = Paths(Path(self.path) / split, self.home)
            for number, row in enumerate(rows_with_files(rows)):
                location = f"{self.path}:{split}:{number}"
                for column in columns:
                    if is_missing(row[column]):
                        value = lacking(row, column)
                        raise ConfigError(f"{location}: the value of {column!r} is {value}; fill it in")
                side = split if has_splits else self.side_of(row, location, sides)
                items.setdefault(side, []).append(item(row, location, paths))
        by_column = None if self.split_column is None else f"by the column {self.split_column!r} of {self.path}"
        return items, f"by the splits of {self.path}" if has_splits else by_column
