"""Where an index is: in a folder, or in the vector database Qdrant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..core.errors import UserError
from .collection import Collection
from .index import RECALL, Index
from .qdrant import QdrantIndex
from .qdrant_connection import connect

LOCAL = "qdrant:"
"""Prefix of a database in a folder: ``qdrant:FOLDER/NAME``."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,200}")


def store(text: str) -> str | Path:
    """The address of an index from the command line: a URL, or a folder.

    Raises:
        UserError: the URL has no valid name of an index.
    """
    if not _is_database(text):
        return Path(text)
    _split(text)
    return text


@contextmanager
def open_index(where: str | Path) -> Iterator[Index | QdrantIndex]:
    """Opens an index, and closes its database at the end.

    Args:
        where: a folder; ``http://HOST:PORT/NAME`` or ``https://``, an index on a Qdrant server, whose key is in the
            environment variable ``QDRANT_API_KEY``; or ``qdrant:FOLDER/NAME``, an index in a database in a folder.

    Raises:
        UserError: there is no such index, it is damaged, or the server cannot be reached or refuses the key.
    """
    if not _is_database(str(where)):
        yield Index(Path(where))
        return
    address, name = _split(str(where))
    if isinstance(address, Path) and not address.is_dir():
        raise UserError(f"{address} does not exist, so it has no index {name!r}; build it with `hrt-mm index build`")
    with _connected(address) as client:
        yield QdrantIndex(client, name)


@contextmanager
def built_index(
    where: str | Path,
    collections: Sequence[Collection],
    recall: float = RECALL,
    *,
    skip_duplicates: bool = False,
    queries: Collection | None = None,
) -> Iterator[Index | QdrantIndex]:
    """Builds an index of collections. If that fails, nothing of it is left, unless the server went away.

    Args:
        where: see :func:`open_index`.
        collections: one or more, of one model.
        recall: see :meth:`Index.build`; a database has its own settings.
        skip_duplicates: see :meth:`Index.build`.
        queries: see :meth:`Index.build`.

    Raises:
        UserError: the index exists, the collections are of several models, or an id is not unique.
    """
    if not _is_database(str(where)):
        yield Index.build(Path(where), collections, recall, skip_duplicates=skip_duplicates, queries=queries)
        return
    check_options(recall, skip_duplicates=skip_duplicates, queries=queries)
    address, name = _split(str(where))
    with _connected(address) as client:
        index = QdrantIndex.create(client, name, collections[0].model)
        try:
            index.extend(collections)
        except BaseException:
            index.delete()
            raise
        yield index


def check_options(recall: float = RECALL, *, skip_duplicates: bool = False, queries: Collection | None = None) -> None:
    """Refuses options of an index in a folder that have no effect in a database.

    Raises:
        UserError: names the option.
    """
    for option, given in (
        ("--recall", recall != RECALL),
        ("--skip-duplicates", skip_duplicates),
        ("--queries", queries),
    ):
        if given:
            raise UserError(f"{option} has no effect in a database, which has settings of its own; drop it")


def _is_database(where: str) -> bool:
    return where.startswith(("http://", "https://", LOCAL))


def _split(where: str) -> tuple[str | Path, str]:
    """The address of a database, and the name of an index in it."""
    example = "http://localhost:6333/NAME or qdrant:FOLDER/NAME"
    if where.startswith(LOCAL):
        folder, _, name = where.removeprefix(LOCAL).rpartition("/")
        address: str | Path = Path(folder).expanduser() if folder else Path(".")
    else:
        parts = urlsplit(where)
        if parts.username or parts.password or parts.query:
            raise UserError("an address has no user, password or query; give the key as QDRANT_API_KEY")
        prefix, _, name = parts.path.rstrip("/").rpartition("/")
        address = f"{parts.scheme}://{parts.netloc}{prefix}"
    if not _NAME.fullmatch(name) or name.endswith("-about"):
        raise UserError(f"{where} does not end with the name of an index; write {example}")
    return address, name


@contextmanager
def _connected(address: str | Path) -> Iterator[Any]:
    client = connect(address)
    try:
        yield client
    finally:
        client.close()
