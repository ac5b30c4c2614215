"""An index that lies in a vector database, Qdrant: in this process, in a folder, or on a server; by the same calls.

Vectors are points of one collection, and rows are their payload; the collection of the name with ``-about`` behind it
says which model they are of. Pictures and sounds stay in the collections that ``hrt-mm embed`` wrote.

Shapes: D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from pydantic import TypeAdapter

from ..core.errors import UserError
from ..core.extras import needs_extra
from .collection import Collection
from .index import Hit
from .rows import Model, Row, check_query

BLOCK = 1_000
"""Points of one request."""
FIELDS = ("part", "level", "parent", "id")
"""Of the payload, what is filtered by; the server keeps an index of each."""


class QdrantIndex:
    """An index in a database, with the calls of :class:`~hrt_mm.retrieval.index.Index`.

    Args:
        client: a ``qdrant_client.QdrantClient``; :func:`connect` makes one.
        name: of the collection in the database.

    Raises:
        UserError: the database has no such index.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name
        if not client.collection_exists(_about(name)):
            known = sorted(own.name.removesuffix("-about") for own in client.get_collections().collections)
            raise UserError(f"the database has no index {name!r}; it has {', '.join(dict.fromkeys(known)) or 'none'}")
        try:
            (about,) = client.retrieve(_about(name), [0])
            self.model = TypeAdapter(Model).validate_python(about.payload)
        except ValueError as error:
            raise UserError(
                f"the database does not say which model {name!r} is of, as its collection {_about(name)!r} is damaged; "
                "delete both and add the collections again"
            ) from error

    @classmethod
    def create(cls, client: Any, name: str, model: Model) -> QdrantIndex:
        """An index without vectors.

        Raises:
            UserError: there is one of this name.
        """
        models = load_qdrant().models
        if client.collection_exists(name) or client.collection_exists(_about(name)):
            raise UserError(f"the database has a collection {name!r} already; choose another name")
        distance = models.Distance.DOT
        client.create_collection(name, models.VectorParams(size=model.dim, distance=distance))
        if _remote(client):
            for field in FIELDS:
                client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)
        client.create_collection(_about(name), models.VectorParams(size=1, distance=distance))
        client.upsert(_about(name), [models.PointStruct(id=0, vector=[0.0], payload=model.plain())])
        return cls(client, name)

    def __len__(self) -> int:
        return int(self.client.count(self.name).count)

    @property
    def parts(self) -> dict[str, int]:
        """How many whole samples there are of each part."""
        found: dict[str, int] = {}
        for row in self._rows(self._filter(level="")):
            found[row.part] = found.get(row.part, 0) + 1
        return found

    @property
    def levels(self) -> set[str]:
        """The levels whose pieces it holds."""
        return {row.level for row in self._rows(self._filter()) if row.level}

    def add(self, collection: Collection) -> int:
        """Adds a collection.

        Returns:
            The vectors that were added.

        Raises:
            UserError: it is of another model or damaged, or an id is there already or twice.
        """
        models = load_qdrant().models
        self.model.check(collection.model, str(collection.folder))
        keys, _ = collection.fingerprints()
        if (keys[1:] == keys[:-1]).any():
            raise UserError(f"{collection.folder} has an id of a part twice; ids are unique")
        for block in _blocks(iter(keys.tolist())):
            if known := self.client.retrieve(self.name, [_point(key) for key in block]):
                names = ", ".join(repr(own.payload["id"]) for own in known[:3])
                raise UserError(f"ids that the index has already: {names}; remove them first, or give others")
        if not collection.checked:
            collection.verify()
        place = 0
        try:
            for rows in _blocks(collection.rows()):
                vectors = collection.vectors_ND[place : place + len(rows)].tolist()
                points = [
                    models.PointStruct(id=_point(row.key), vector=vector, payload=json.loads(row.json()))
                    for row, vector in zip(rows, vectors, strict=True)
                ]
                self.client.upsert(self.name, points)
                place += len(rows)
        except BaseException:
            # None of the ids was there before.
            for block in _blocks(iter(keys.tolist())):
                self.client.delete(self.name, [_point(key) for key in block])
            raise
        return place

    def remove(self, ids: Sequence[str], part: str | None = None) -> int:
        """Removes whole samples, and what lies within them.

        Returns:
            The vectors that were removed.

        Raises:
            UserError: there is no such row; names the first.
        """
        found = {row.key: row for row in self._rows(self._filter(part=part, id=list(ids)))}
        if missing := sorted(set(ids) - {row.id for row in found.values()}):
            raise UserError(f"the index has no row {missing[0]!r}{f' of part {part!r}' if part else ''}")
        waiting = list(found.values())
        while waiting:
            row = waiting.pop()
            fresh = [
                inner for inner in self._rows(self._filter(part=row.part, parent=row.id)) if inner.key not in found
            ]
            found |= {inner.key: inner for inner in fresh}
            waiting += fresh
        self.client.delete(self.name, [_point(key) for key in found])
        return len(found)

    def search(
        self,
        query_D: np.ndarray,
        k: int,
        *,
        part: str | None = None,
        level: str = "",
        inside: int = 0,
        finer: Mapping[str, np.ndarray] | None = None,
    ) -> list[Hit]:
        """The nearest rows, best first, as :meth:`hrt_mm.retrieval.index.Index.search` gives them.

        Raises:
            UserError: k is below 1, or a vector's width is another or it is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        if finer is not None:
            finer = {name: check_query(own_D, k, self.model.dim) for name, own_D in finer.items()}
        hits = self._nearest(query_D, k, self._filter(part=part, level=level))
        return [replace(hit, inside=self._inside(hit.row, query_D, finer, inside)) for hit in hits] if inside else hits

    def _nearest(self, query_D: np.ndarray, k: int, wanted: Any) -> list[Hit]:
        found = self.client.query_points(self.name, query_D.tolist(), query_filter=wanted, limit=k)
        return [Hit(float(point.score), _row(point.payload)) for point in found.points]

    def _inside(
        self, row: Row, query_D: np.ndarray, finer: Mapping[str, np.ndarray] | None, count: int
    ) -> tuple[Hit, ...]:
        """The best of the rows whose parent is this one, each with the best of its own."""
        queries = finer
        if queries is None:
            levels = {inner.level for inner in self._rows(self._filter(part=row.part, parent=row.id))}
            queries = dict.fromkeys(levels, query_D)
        found = [
            hit
            for level, own_D in queries.items()
            if level
            for hit in self._nearest(own_D, count, self._filter(part=row.part, parent=row.id, level=level))
        ]
        best = sorted(found, key=lambda hit: -hit.score)[:count]
        return tuple(replace(hit, inside=self._inside(hit.row, query_D, finer, count)) for hit in best)

    def _rows(self, wanted: Any) -> Iterator[Row]:
        after = None
        while True:
            points, after = self.client.scroll(self.name, wanted, limit=BLOCK, offset=after)
            yield from (_row(point.payload) for point in points)
            if after is None:
                return

    @staticmethod
    def _filter(**fields: str | list[str] | None) -> Any:
        """Rows whose fields have a value, or one of several."""
        models = load_qdrant().models
        kinds = {
            key: models.MatchAny(any=value) if isinstance(value, list) else models.MatchValue(value=value)
            for key, value in fields.items()
            if value is not None
        }
        return models.Filter(must=[models.FieldCondition(key=key, match=match) for key, match in kinds.items()])


def connect(where: str | Path) -> Any:
    """A client of a database.

    Args:
        where: ``http://`` or ``https://`` and a server's address; ``:memory:``; or a folder, which one process may
            open at a time and which suits some ten thousand vectors, as all are compared.

    Raises:
        UserError: qdrant-client is not installed.
    """
    client = load_qdrant().QdrantClient
    text = str(where)
    if text.startswith(("http://", "https://")):
        return client(url=text)
    return client(location=text) if text == ":memory:" else client(path=text)


def load_qdrant() -> Any:
    """qdrant_client.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("qdrant", "an index in Qdrant"):
        import qdrant_client

    return qdrant_client


def _about(name: str) -> str:
    return f"{name}-about"


def _remote(client: Any) -> bool:
    """Whether it is a server's; one in this process needs no index of the payload, and warns where it is asked for."""
    return type(client._client).__name__ != "QdrantLocal"


def _point(key: int) -> str:
    """The id of a point: points have UUIDs."""
    return str(UUID(int=key))


def _row(payload: Mapping[str, Any]) -> Row:
    return Row.of(json.dumps(payload).encode(), "a row in the database")


def _blocks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while block := list(islice(items, BLOCK)):
        yield block
