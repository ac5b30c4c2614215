"""Rows that are embedded already, so that only new and changed samples are embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ..core.errors import UserError
from .collection import Collection
from .rows import Model, Row, key_of


class RowLookup(Protocol):
    """A collection or an index that finds rows by their keys."""

    folder: Path
    model: Model

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""


class KnownRows:
    """Rows of collections and indexes.

    Args:
        sources: collections and indexes.
    """

    def __init__(self, sources: Sequence[RowLookup]) -> None:
        self.sources = sources

    @classmethod
    def of(cls, folders: Iterable[str | Path]) -> KnownRows:
        """Opens collections and indexes.

        Raises:
            UserError: a folder is neither, or it is damaged.
        """
        return cls([_opened(Path(folder)) for folder in folders])

    def check(self, model: Model) -> None:
        """Refuses rows of another model, as their samples would have to be embedded again.

        Raises:
            UserError: names both models.
        """
        for source in self.sources:
            if (source.model.fingerprint, source.model.dim) != (model.fingerprint, model.dim):
                raise UserError(
                    f"{source.folder} has vectors of another model, of {source.model.run}, and none of this one; "
                    "embed without --skip-known"
                )

    def stamps(self, tower: str, names: Sequence[str]) -> dict[str, str]:
        """The stamps of the samples that are known, by id."""
        keys = {key_of(tower, name): name for name in names} if self.sources else {}
        return {
            row.id: row.stamp
            for source in self.sources
            for row in source.rows_with(list(keys))
            if row.tower == tower and not row.level and keys.get(row.key) == row.id
        }


def _opened(folder: Path) -> RowLookup:
    if (folder / "manifest.json").is_file():
        from .index import Index

        return Index(folder)
    if (folder / "collection.json").is_file():
        return Collection(folder)
    raise UserError(f"{folder} is neither an index nor a collection of vectors; give one to --skip-known")
