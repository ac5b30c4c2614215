"""Rows that are embedded already, so that only new and changed samples are embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from ..core.errors import UserError
from .collection import Collection
from .rows import Model, Row, key_of


class RowLookup(Protocol):
    """A collection or an index that finds rows by their keys."""

    model: Model

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""


class KnownRows:
    """Rows of collections and indexes.

    Args:
        sources: collections and indexes by their addresses, for messages.
    """

    def __init__(self, sources: Mapping[str, RowLookup] = MappingProxyType({})) -> None:
        self.sources = sources

    @classmethod
    @contextmanager
    def opened(cls, addresses: Iterable[str | Path]) -> Iterator[KnownRows]:
        """Opens collections and indexes, and closes databases at the end.

        Args:
            addresses: folders of collections, and indexes as in :func:`hrt_mm.retrieval.stores.open_index`.

        Raises:
            UserError: a folder is neither, it is damaged, or a database cannot be reached.
        """
        with ExitStack() as stack:
            yield cls({str(address): _opened(str(address), stack) for address in addresses})

    def check(self, model: Model) -> None:
        """Refuses rows of another model, as their samples would have to be embedded again.

        Raises:
            UserError: names both models.
        """
        for name, source in self.sources.items():
            if (source.model.fingerprint, source.model.dim) != (model.fingerprint, model.dim):
                raise UserError(
                    f"{name} has vectors of another model, of {source.model.run}, and none of this one; "
                    "embed without --skip-known"
                )

    def stamps(self, tower: str, names: Sequence[str]) -> dict[str, str]:
        """The stamps of the samples that are known, by id."""
        keys = {key_of(tower, name): name for name in names} if self.sources else {}
        return {
            row.id: row.stamp
            for source in self.sources.values()
            for row in source.rows_with(list(keys))
            if row.tower == tower and not row.level and keys.get(row.key) == row.id
        }


def _opened(address: str, stack: ExitStack) -> RowLookup:
    from .stores import open_index, store

    where = store(address)
    if isinstance(where, str):
        return stack.enter_context(open_index(where))
    folder = where.expanduser()
    if (folder / "manifest.json").is_file():
        return stack.enter_context(open_index(folder))
    if (folder / "collection.json").is_file():
        return Collection(folder)
    raise UserError(f"{folder} is neither an index nor a collection of vectors; give one to --skip-known")
