"""Rows that come with their own splits, and those of shards."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Self

from pydantic import model_validator

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.files import shown
from hrt_mm.data.folders import walk
from hrt_mm.data.locations import LocalFile, Location, RemoteFile, shards_of
from hrt_mm.data.shards import read_shard, rows_of_shard
from hrt_mm.data.splits import split_name, split_name_forms
from hrt_mm.data.tables import Paths, lacking

from .generated import cache_home
from .media import AnyRowItem, RowsConfig
from .streamed_rows import StreamableConfig, StreamedShards, check_streamed_split
from .tables import Row, SplitColumn

_LEADING = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class LocatedRow:
    """A row.

    Args:
        split: of the data; ``None`` if the data has no splits.
        location: of the row, for messages.
        row: its columns.
        paths: that the row may name.
    """

    split: str | None
    location: str
    row: Row
    paths: Paths


class LocatedRowsConfig(RowsConfig):
    """Rows of data that may have its own splits."""

    split_column: str | None = None
    """Column of the split, if the data has no splits of its own; null to split by class and seed."""

    @abstractmethod
    def located_rows(self) -> Iterator[LocatedRow]:
        """All rows, in order.

        Raises:
            ConfigError: the data is missing or broken; names the file.
        """

    def items_by_split(
        self, columns: Sequence[str], keys: Sequence[str], item: Callable[[Row, str, Paths], AnyRowItem]
    ) -> tuple[dict[str, list[AnyRowItem]], str | None]:
        settings = ", ".join(f"data.{key}" for key in (*keys, "group", "folds"))
        items: dict[str, list[AnyRowItem]] = {}
        sides = SplitColumn(self.split_column, self.where)
        has_splits = False
        for located in self.located_rows():
            row, location = located.row, located.location
            for column in (*columns, *self.split_columns()):
                if row.get(column) is None:
                    raise ConfigError(f"{location}: the value of {column!r} is {lacking(row, column)}. Set {settings}")
            has_splits |= located.split is not None
            side = self.side_of(row, location, sides) if located.split is None else located.split
            items.setdefault(side, []).append(item(row, location, located.paths))
        if has_splits and self.split_column is not None:
            raise ConfigError(f"data.split_column {self.split_column} has no effect: {self.where} has splits; drop it")
        by_column = None if self.split_column is None else f"by the column {self.split_column!r} of {self.where}"
        return items, f"by the names in {self.where}" if has_splits else by_column


class ShardRowsConfig(LocatedRowsConfig, StreamableConfig):
    """Samples in shards: uncompressed tar files in WebDataset's format, on a local disk or behind a URL.

    Columns are the extensions of a sample's members, such as ``jpg``, ``txt`` and ``cls``; ``file`` is the first member
    that is no text. The fields of a member ``json`` are columns too.
    """

    root: Path | None = None
    """A folder of shards, or one shard. Shards whose names begin with ``train``, ``val`` or ``test``, or that are in
    folders of these names, are these splits."""
    shards: str | tuple[str, ...] = ()
    """Paths and URLs of shards, in place of ``root``: ``s3://bucket/train-{000..009}.tar``, ``https://``, and all else
    that fsspec reads, with the library of the protocol, such as s3fs. ``{000..009}`` and ``{a,b}`` stand for several,
    ``*`` for any part of a name. Splits are as for ``root``."""
    shard_cache: Path | None = None
    """A folder that remote shards are copied to on first use; null to read parts of them when they are needed, which
    the server must support."""
    label_column: str | tuple[str, ...] | None = "cls"
    """Column of the label, or several of numbers; null for samples without labels."""

    @model_validator(mode="after")
    def _located(self) -> Self:
        if (self.root is None) == (not self.shards):
            raise ValueError("root and shards both tell where the shards are; give one of them")
        if self.shard_cache is not None and not self.shards:
            raise ValueError("shard_cache is for remote shards, and root is local; drop it")
        return self

    @property
    def home(self) -> Path:
        if self.root is None:
            return self.shard_cache or Path()
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def where(self) -> str:
        if self.root is not None:
            return f"data.root {self.root}"
        return f"data.shards {self.shards if isinstance(self.shards, str) else ', '.join(self.shards)}"

    def located_rows(self) -> Iterator[LocatedRow]:
        if self.streaming:
            raise ConfigError(f"{self.where} is a stream, whose splits are not listed; set data.streaming: false")
        locations = self._locations()
        splits = self._splits(locations)
        for name, location in locations.items():
            if isinstance(location, RemoteFile) and self.shard_cache is not None:
                try:
                    location = location.fetch(self.shard_cache)
                except (OSError, ValueError) as error:
                    raise ConfigError(f"{location} cannot be copied to {self.shard_cache}: {error}") from error
            paths = self._paths(name)
            rows = rows_of_shard(location, read_shard(location, cache_home() / "shards"), printable(name))
            for key, row in rows:
                yield LocatedRow(splits[name], f"{location}:{shown(key)}", row, paths)

    def _streamed(self, split: str) -> Dataset:
        locations = self._locations()
        splits = self._splits(locations)
        check_streamed_split(split, tuple(dict.fromkeys(side or "train" for side in splits.values())), self.where)
        of_split = {name: location for name, location in locations.items() if (splits[name] or "train") == split}
        stream = StreamedShards(
            self,
            {printable(name): location for name, location in of_split.items()},
            {printable(name): self._paths(name) for name in of_split},
            f"{self.where}, split {split}",
            self.shard_cache,
            self.stream_classes({}),
            self.shuffle_buffer,
            self.stream_readers,
        )
        return stream if split == "train" else stream.head(self.eval_rows)

    def _locations(self) -> dict[str, Location]:
        """The shards, by name."""
        return self._in_root(self.root) if self.root is not None else self._listed()

    def _splits(self, locations: Mapping[str, Location]) -> dict[str, str | None]:
        """The split of each shard, or ``None`` for all.

        Raises:
            ConfigError: some shards are in a split, and others are not.
        """
        splits = {name: split_by_name(name) for name in locations}
        unknown = [name for name, split in splits.items() if split is None]
        if len(unknown) not in (0, len(locations)):
            raise ConfigError(
                f"{self.where}: {shown(unknown[0])} is in no split, and other shards are; begin its name with "
                f"{split_name_forms()}"
            )
        return splits

    def _paths(self, name: str) -> Paths:
        """The paths that the samples of a shard may name."""
        return Paths(self.home / name, self.home) if self.root is not None else _NoPaths(name)

    def _in_root(self, root: Path) -> dict[str, Location]:
        """The shards of a folder, by their names in it."""
        if not root.exists():
            raise ConfigError(f"{self.where}: no such file or folder")
        names = [root.name]
        if root.is_dir():
            listing = walk(root, (".tar",), follow_links=self.follow_links)
            names = list(listing.files)
            packed = [name for name in listing.unread if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz"))]
            if packed:
                raise ConfigError(f"{self.where} has the compressed shard {shown(packed[0])}; unpack it to .tar")
        if not names:
            raise ConfigError(f"{self.where} has no shards; their names end in .tar")
        return {name: LocalFile(self.home / name) for name in names}

    def _listed(self) -> dict[str, Location]:
        """The shards of ``data.shards``, by their names without what all have in common."""
        patterns = [self.shards] if isinstance(self.shards, str) else self.shards
        locations = {str(location): location for pattern in patterns for location in shards_of(pattern)}
        folders = [name.rpartition("/")[0].split("/") for name in locations]
        common = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
        if not all(split_by_name(name.rpartition("/")[2]) for name in locations):
            # The folder that the files are in may be named after a split.
            common = max(0, common - 1)
        return {"/".join(name.split("/")[common:]): location for name, location in locations.items()}


class _NoPaths(Paths):
    """The paths that listed shards may name: none, as they have no folder of their own.

    Args:
        table: name of the shard.
    """

    def __init__(self, table: str) -> None:
        super().__init__(Path(table))

    def of(self, row: Row, column: str, location: str) -> str:
        if isinstance(row.get(column), str):
            raise ConfigError(f"{location}: {column} is a text, and shards of data.shards have no files beside them")
        return super().of(row, column, location)


def split_by_name(name: str) -> str | None:
    """The split of a file, by its folders, relative to the data's, or by the beginning of its name."""
    *folders, leaf = name.split("/")
    leading = _LEADING.match(leaf)
    candidates = [*folders, *([leading[0]] if leading else [])]
    return next((split for candidate in candidates if (split := split_name(candidate)) is not None), None)
