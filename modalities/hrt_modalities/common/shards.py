"""Rows that come with their own splits, and those of shards."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.files import shown
from hrt_mm.data.folders import walk
from hrt_mm.data.shards import read_shard, rows_of_shard
from hrt_mm.data.splits import split_name, split_name_forms
from hrt_mm.data.tables import Paths, lacking

from .generated import cache_home
from .media import AnyRowItem, RowsConfig
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


class ShardRowsConfig(LocatedRowsConfig):
    """Samples in shards: uncompressed tar files in WebDataset's format, on a local disk.

    Columns are the extensions of a sample's members, such as ``jpg``, ``txt`` and ``cls``; ``file`` is the first member
    that is no text. The fields of a member ``json`` are columns too.
    """

    root: Path
    """A folder of shards, or one shard. Shards whose names begin with ``train``, ``val`` or ``test``, or that are in
    folders of these names, are these splits."""
    label_column: str | None = "cls"
    """Column of the label; null for samples without labels."""

    @property
    def home(self) -> Path:
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def where(self) -> str:
        return f"data.root {self.root}"

    def located_rows(self) -> Iterator[LocatedRow]:
        if not self.root.exists():
            raise ConfigError(f"{self.where}: no such file or folder")
        names = [self.root.name]
        if self.root.is_dir():
            listing = walk(self.root, (".tar",), follow_links=self.follow_links)
            names = list(listing.files)
            packed = [name for name in listing.unread if name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz"))]
            if packed:
                raise ConfigError(f"{self.where} has the compressed shard {shown(packed[0])}; unpack it to .tar")
        if not names:
            raise ConfigError(f"{self.where} has no shards; their names end in .tar")
        splits = {name: split_by_name(name) for name in names}
        unknown = [name for name, split in splits.items() if split is None]
        if len(unknown) not in (0, len(names)):
            raise ConfigError(
                f"{self.where}: {shown(unknown[0])} is in no split, and other shards are; begin its name with "
                f"{split_name_forms()}"
            )
        for name in names:
            shard = self.home / name
            paths = Paths(shard, self.home)
            for key, row in rows_of_shard(shard, read_shard(shard, cache_home() / "shards"), printable(name)):
                yield LocatedRow(splits[name], f"{shard}:{shown(key)}", row, paths)


def split_by_name(name: str) -> str | None:
    """The split of a file, by its folders, relative to the data's, or by the beginning of its name."""
    *folders, leaf = name.split("/")
    leading = _LEADING.match(leaf)
    candidates = [*folders, *([leading[0]] if leading else [])]
    return next((split for candidate in candidates if (split := split_name(candidate)) is not None), None)
