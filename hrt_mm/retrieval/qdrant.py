"""An index in the vector database Qdrant: in memory, in a folder, or on a server.

Vectors are the points of a collection, and rows are their payload. A second collection, ``NAME-about``, stores the
model, the names of columns, and which additions are not complete. Media stay in the collections that ``hrt-mm embed``
wrote.

Shapes: D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

import numpy as np
from pydantic import TypeAdapter

from ..core.errors import UserError
from .additions import Replacement
from .collection import Collection
from .index import Hit
from .lexical import inverse_frequency, units_of
from .options import Scope, ScopeKeywords, VectorSearch, VectorSearchKeywords
from .qdrant_connection import is_remote, load_qdrant
from .qdrant_filters import COLUMNS, columns_of, filter_of, query_weights, share, sparse_of
from .rows import Model, Row, check_queries, check_query, key_of
from .where import Where

BLOCK = 1_000
"""Points per request."""
FIELDS = ("tower", "level", "parent", "id", "addition")
"""Payload fields that queries filter by. The server indexes them."""
SCHEMA = 4
"""Version of the payloads. Those of version 1, which is not recorded, call the tower ``part``; version 3 has copies of
columns for filters, and sparse vectors of words; version 4 has the names of all columns beside the model."""
WORDS = "words"
"""The sparse vectors of the rows' texts. The database weights terms by their inverse document frequency."""


class QdrantIndex:
    """An index in a database, with the calls of :class:`~hrt_mm.retrieval.index.Index`.

    Args:
        client: a ``qdrant_client.QdrantClient``; :func:`connect` makes one.
        name: of the collection in the database.

    Raises:
        UserError: the database has no such index, or an earlier version of the package wrote it.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name
        self._recorded: set[str] = set()
        self._factors: dict[int, float] = {}
        self._factors_count = -1
        if not client.collection_exists(_about(name)):
            names = sorted(entry.name.removesuffix("-about") for entry in client.get_collections().collections)
            raise UserError(f"the database has no index {name!r}; it has {', '.join(dict.fromkeys(names)) or 'none'}")
        try:
            (about,) = client.retrieve(_about(name), [0])
            self.model = TypeAdapter(Model).validate_python(about.payload)
        except ValueError as error:
            raise UserError(
                f"the database does not say which model {name!r} is of, as its collection {_about(name)!r} is damaged; "
                "delete both and add the collections again"
            ) from error
        if (schema := about.payload.get("schema", 1)) != SCHEMA:
            raise UserError(
                f"the index {name!r} has rows of schema {schema}, this version reads {SCHEMA}; delete {name!r} and "
                f"{_about(name)!r} from the database and add the collections again, or use the version that wrote it"
            )

    @classmethod
    def create(cls, client: Any, name: str, model: Model) -> QdrantIndex:
        """Creates an empty index.

        Raises:
            UserError: the name is taken.
        """
        models = load_qdrant().models
        if client.collection_exists(name) or client.collection_exists(_about(name)):
            raise UserError(f"the database has a collection {name!r} already; choose another name")
        distance = models.Distance.DOT
        client.create_collection(
            name,
            models.VectorParams(size=model.dim, distance=distance),
            sparse_vectors_config={WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        if is_remote(client):
            for field in FIELDS:
                client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)
        client.create_collection(_about(name), models.VectorParams(size=1, distance=distance))
        about = model.plain() | {"schema": SCHEMA}
        client.upsert(_about(name), [models.PointStruct(id=0, vector=[0.0], payload=about)])
        return cls(client, name)

    def __len__(self) -> int:
        return int(self.client.count(self.name, count_filter=self._filter()).count)

    @property
    def towers(self) -> dict[str, int]:
        """Number of samples of each tower."""
        return self._counts("tower", self._filter(level=""))

    @property
    def levels(self) -> set[str]:
        """The levels of which the index has pieces."""
        return {level for level in self._counts("level", self._filter()) if level}

    def _counts(self, field: str, counted: Any) -> dict[str, int]:
        response = self.client.facet(self.name, field, facet_filter=counted, limit=BLOCK, exact=True)
        return dict(sorted((str(hit.value), int(hit.count)) for hit in response.hits))

    def delete(self) -> None:
        """Deletes the index from the database."""
        for name in (self.name, _about(self.name)):
            self.client.delete_collection(name)

    def add(self, collection: Collection) -> int:
        """Adds a collection; see :meth:`extend`."""
        return self.extend([collection])

    def extend(self, collections: Sequence[Collection]) -> int:
        """Adds collections. Their rows are found once all of them have arrived.

        If the server goes away before, and the rows that have arrived cannot be deleted, they stay hidden. The same
        addition can then be repeated.

        Returns:
            The number of vectors added.

        Raises:
            UserError: a collection is of another model or damaged, an id is not unique, or the server went away.
        """
        token = self._checked(collections)
        return self._add([(collection, range(len(collection))) for collection in collections], token)

    def replace(self, collections: Sequence[Collection]) -> Replacement:
        """Adds several collections, whose samples replace those that have changed; see :meth:`Index.replace`.

        Samples are replaced one by one: first their pieces, then the rest. If the server goes away, some are replaced,
        and none is lost. The same command can then be repeated.

        Raises:
            UserError: see :meth:`extend`.
        """
        token = self._checked(collections)
        replaced, unchanged, added = 0, 0, 0
        additions = []
        for collection in collections:
            new, changed, same = self._compared(collection)
            for position in changed:
                self._replace(collection, position)
            pieces = collection.pieces_of(collection.row(position).key for position in new)
            additions.append((collection, sorted([*new, *pieces])))
            added, replaced, unchanged = added + len(new), replaced + len(changed), unchanged + len(same)
        self._add(additions, token)
        return Replacement(added, replaced, unchanged)

    def _checked(self, collections: Sequence[Collection]) -> str:
        """Checks collections, and returns a token of their addition."""
        addition = blake2b(digest_size=16)
        seen: set[int] = set()
        for collection in collections:
            self.model.check(collection.model, str(collection.folder))
            keys, _ = collection.fingerprints()
            if (keys[1:] == keys[:-1]).any() or seen.intersection(keys.tolist()):
                raise UserError(f"{collection.folder} has an id of a tower twice; ids are unique")
            seen.update(keys.tolist())
            if not collection.checked:
                collection.verify()
            addition.update((collection.folder / "collection.json").read_bytes())
        return addition.hexdigest()

    def _compared(self, collection: Collection) -> tuple[list[int], list[int], list[int]]:
        """Positions of the samples that the index does not have, of those that have changed, and of the others."""
        samples = ((position, row) for position, row in enumerate(collection.rows()) if not row.level)
        hidden = self._hidden()
        new, changed, unchanged = [], [], []
        for block in _blocks(samples):
            points = self.client.retrieve(self.name, [_point(row.key) for _, row in block], with_vectors=[""])
            existing = {point.id: point for point in points if point.payload.get("addition", "") not in hidden}
            for position, row in block:
                if (point := existing.get(_point(row.key))) is None:
                    new.append(position)
                elif row.unchanged(collection.vectors_ND[position], _row(point.payload), _vector(point)):
                    unchanged.append(position)
                else:
                    changed.append(position)
        return new, changed, unchanged

    def _replace(self, collection: Collection, position: int) -> None:
        """Replaces a sample and its pieces. The sample is last, so that it counts as changed until all is done."""
        row = collection.row(position)
        pieces = collection.pieces_of([row.key])
        self._upload(collection, pieces, "")
        stale = self._with_pieces([row]).keys() - {row.key, *(each.key for each in collection.rows_at(pieces))}
        if stale:
            self.client.delete(self.name, [_point(key) for key in stale])
        self._upload(collection, [position], "")

    def _add(self, additions: Sequence[tuple[Collection, Sequence[int]]], token: str) -> int:
        """Adds rows of collections, by position. They are hidden until all have arrived."""
        hidden = self._hidden()
        keys = [row.key for collection, positions in additions for row in collection.rows_at(positions)]
        for block in _blocks(iter(keys)):
            points = self.client.retrieve(self.name, [_point(key) for key in block])
            existing = [point for point in points if token not in hidden or point.payload.get("addition", "") != token]
            if existing:
                names = ", ".join(repr(point.payload["id"]) for point in existing[:3])
                raise UserError(f"ids that the index has already: {names}; remove them first, or give others")
        models = load_qdrant().models
        mark = models.PointStruct(id=str(UUID(token)), vector=[0.0], payload={"addition": token})
        self.client.upsert(_about(self.name), [mark])
        try:
            count = sum(self._upload(collection, positions, token) for collection, positions in additions)
        except BaseException:
            # The server may be gone, too. What is left is hidden.
            with suppress(Exception):
                self.client.delete(self.name, models.FilterSelector(filter=_only("addition", token)))
                self.client.delete(_about(self.name), [mark.id])
            raise
        self.client.delete(_about(self.name), [mark.id])
        return count

    def _upload(self, collection: Collection, positions: Sequence[int], addition: str) -> int:
        for block in _blocks(iter(positions)):
            self._record_columns({name for row in collection.rows_at(block) for name in row.info})
            points = [
                self._of(row, vector, self._inherited(row, collection), addition)
                for row, vector in zip(collection.rows_at(block), collection.vectors_ND[block].tolist(), strict=True)
            ]
            self.client.upsert(self.name, points)
        return len(positions)

    def _of(self, row: Row, vector: list[float], inherited: Mapping[str, str], addition: str) -> Any:
        """The point of a row."""
        models = load_qdrant().models
        terms, weights = sparse_of(row)
        vectors: dict[str, Any] = {"": vector}
        if terms:
            vectors[WORDS] = models.SparseVector(indices=terms, values=weights)
        payload = json.loads(row.json()) | {COLUMNS: columns_of(row, inherited), "addition": addition}
        return models.PointStruct(id=_point(row.key), vector=vectors, payload=payload)

    def _inherited(self, row: Row, collection: Collection) -> Mapping[str, str]:
        """The columns of the sample that a row is a piece of."""
        columns: Mapping[str, str] = {}
        while row.parent:
            parent_key = key_of(row.tower, row.parent)
            if positions := collection.positions_of("keys", [parent_key]):
                row = collection.row(positions[parent_key][0])
            elif points := self.client.retrieve(self.name, [_point(parent_key)]):
                row = _row(points[0].payload)
            else:
                break
            columns = row.info if not row.level else {}
        return columns

    def _hidden(self) -> list[str]:
        """The additions that are not complete."""
        return [point.payload["addition"] for point in self._scroll(_about(self.name), _having("addition"))]

    def remove(self, ids: Sequence[str], tower: str | None = None) -> int:
        """Removes samples with all of their pieces.

        Returns:
            The number of vectors removed.

        Raises:
            UserError: there is no such row; names the first.
        """
        removed = {row.key: row for row in self._rows(self._filter(tower=tower, id=list(ids)))}
        if missing := sorted(set(ids) - {row.id for row in removed.values()}):
            raise UserError(f"the index has no row {missing[0]!r}{f' of tower {tower!r}' if tower else ''}")
        removed = self._with_pieces(removed.values())
        self.client.delete(self.name, [_point(key) for key in removed])
        return len(removed)

    def _with_pieces(self, rows: Iterable[Row]) -> dict[int, Row]:
        """Rows and all pieces within them, by key."""
        by_key = {row.key: row for row in rows}
        pending = list(by_key.values())
        while pending:
            row = pending.pop()
            pieces = self._rows(self._filter(tower=row.tower, parent=row.id))
            new_pieces = {piece.key: piece for piece in pieces if piece.key not in by_key}
            by_key |= new_pieces
            pending += new_pieces.values()
        return by_key

    def rows_with(self, keys: Sequence[int]) -> Iterator[Row]:
        """The rows with some keys, in any order; those that do not exist are left out."""
        hidden = self._hidden()
        for block in _blocks(iter(keys)):
            for point in self.client.retrieve(self.name, list(map(_point, block))):
                if point.payload.get("addition", "") not in hidden:
                    yield _row(point.payload)

    def refresh(self) -> None:
        """Does nothing: searches see later additions."""

    def media(self, key: int) -> Path | None:
        """None: media files are not in the database."""
        return None

    def search(self, query_D: np.ndarray, k: int, **options: Unpack[VectorSearchKeywords]) -> list[Hit]:
        """The nearest rows, best first; see :meth:`hrt_mm.retrieval.index.Index.search`.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        query_D = check_query(query_D, k, self.model.dim)
        search = VectorSearch(**options).checked(k, self.model.dim)
        (hits,) = self._nearest(query_D[None], k, self._allowed(search), exact=search.exact)
        if not search.inside:
            return hits
        return self.with_pieces(hits, search.inside, search.finer if search.finer is not None else query_D)

    def search_many(self, queries_QD: np.ndarray, k: int, **options: Unpack[VectorSearchKeywords]) -> list[list[Hit]]:
        """The results of several queries, in one request; see :meth:`hrt_mm.retrieval.index.Index.search_many`.

        Raises:
            UserError: k is below 1, or a vector has another width or is not finite.
        """
        queries_QD = check_queries(queries_QD, k, self.model.dim)
        search = VectorSearch(**options).checked(k, self.model.dim, len(queries_QD))
        results = self._nearest(queries_QD, k, self._allowed(search), exact=search.exact)
        if not search.inside:
            return results
        answers = []
        for number, (hits, query_D) in enumerate(zip(results, queries_QD, strict=True)):
            finer = search.of_query(number).finer
            answers.append(self.with_pieces(hits, search.inside, query_D if finer is None else finer))
        return answers

    def search_words(
        self, text: str, query_D: np.ndarray, k: int, **scope: Unpack[ScopeKeywords]
    ) -> list[tuple[Hit, float]]:
        """The rows whose texts match a text best; see :meth:`hrt_mm.retrieval.index.Index.search_words`.

        The database finds rows by BM25, and the scores of the best are computed as in a folder. They differ where an
        index has several towers or levels, or rows with several texts: the database counts in how many rows of the
        whole index a term is, and a folder in how many texts of the tower and level.
        """
        return self.search_words_many([text], query_D[None], k, **scope)[0]

    def search_words_many(
        self, texts: Sequence[str], queries_QD: np.ndarray, k: int, **scope: Unpack[ScopeKeywords]
    ) -> list[list[tuple[Hit, float]]]:
        """The results of several texts, in one request; see :meth:`search_words`."""
        models = load_qdrant().models
        weights = [query_weights(text) for text in texts]
        matches: list[list[tuple[Hit, float]]] = [[] for _ in texts]
        numbers = [number for number, each in enumerate(weights) if each]
        if not numbers:
            return matches
        allowed = self._allowed(Scope(**scope))
        requests = [
            models.QueryRequest(
                query=models.SparseVector(indices=list(weights[number]), values=list(weights[number].values())),
                using=WORDS,
                filter=allowed,
                limit=k,
                with_vector=[""],
                with_payload=True,
            )
            for number in numbers
        ]
        responses = self.client.query_batch_points(self.name, requests)
        factors = self._frequency_factors(
            {
                term
                for number, response in zip(numbers, responses, strict=True)
                if response.points
                for term in weights[number]
            }
        )
        for number, response in zip(numbers, responses, strict=True):
            for point in response.points:
                row = _row(point.payload)
                score = float(_vector(point) @ queries_QD[number])
                matches[number].append((Hit(score, row), share(texts[number], units_of(row), factors)))
            matches[number].sort(key=lambda match: -match[1])
        return matches

    def _frequency_factors(self, terms: Iterable[int]) -> dict[int, float]:
        """The inverse document frequencies of terms, remembered as long as the number of rows is the same.

        The database counts rows but does not return the counts: they follow from the score of one row with the term.
        """
        models = load_qdrant().models
        if (count := int(self.client.count(self.name).count)) != self._factors_count:
            self._factors, self._factors_count = {}, count
        unknown = sorted({*terms} - self._factors.keys())
        requests = [
            models.QueryRequest(
                query=models.SparseVector(indices=[term], values=[1.0]), using=WORDS, limit=1, with_vector=[WORDS]
            )
            for term in unknown
        ]
        responses = self.client.query_batch_points(self.name, requests) if requests else []
        for term, response in zip(unknown, responses, strict=True):
            factor = inverse_frequency(0, count)
            for point in response.points:
                row_weights = dict(zip(point.vector[WORDS].indices, point.vector[WORDS].values, strict=True))
                factor = float(point.score) / row_weights[term]
            self._factors[term] = factor
        return self._factors

    def with_pieces(self, hits: Sequence[Hit], count: int, queries: np.ndarray | Mapping[str, np.ndarray]) -> list[Hit]:
        """The hits with the best finer rows within each; see :meth:`hrt_mm.retrieval.index.Index.with_pieces`."""
        return [replace(hit, inside=self._inside(hit.row, queries, count)) for hit in hits]

    def _allowed(self, scope: Scope) -> Any:
        rows = self._filter(tower=scope.tower, level=scope.level)
        if scope.where is None:
            return rows
        models = load_qdrant().models
        return models.Filter(must=[rows, filter_of(scope.where, models)])

    @property
    def columns(self) -> set[str]:
        """The names of the columns of ``info`` of all rows, also of those that were removed."""
        return {point.payload["column"] for point in self._scroll(_about(self.name), _having("column"))}

    def _record_columns(self, names: set[str]) -> None:
        """Records the names of columns, each in a point of its own, so that writers do not overwrite each other's."""
        models = load_qdrant().models
        points = [
            models.PointStruct(
                id=str(UUID(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())),
                vector=[0.0],
                payload={"column": name},
            )
            for name in sorted(names - self._recorded)
        ]
        if points:
            self.client.upsert(_about(self.name), points)
            self._recorded.update(names)

    def recall(self, tower: str, level: str = "") -> float | None:
        """Unknown, except in a local database, which compares all vectors."""
        return None if is_remote(self.client) else 1.0

    def vector(self, row: Row) -> np.ndarray:
        """(D,) the vector of a row.

        Raises:
            UserError: the index has no such row.
        """
        if not (points := self.client.retrieve(self.name, [_point(row.key)], with_vectors=[""])):
            raise UserError(f"the index has no row {row.id!r} of {row.tower}")
        return _vector(points[0])

    def count(self, tower: str, level: str = "", where: Where | None = None) -> int:
        """The number of rows of a tower and level that a filter matches."""
        return int(self.client.count(self.name, count_filter=self._allowed(Scope(tower, level, where))).count)

    def _nearest(self, queries_QD: np.ndarray, k: int, query_filter: Any, *, exact: bool = False) -> list[list[Hit]]:
        if not len(queries_QD):
            return []
        models = load_qdrant().models
        # A local database is always exact, and warns if parameters are given.
        params = models.SearchParams(exact=True) if exact and is_remote(self.client) else None
        requests = [
            models.QueryRequest(query=query_D.tolist(), filter=query_filter, params=params, limit=k, with_payload=True)
            for query_D in queries_QD
        ]
        responses = self.client.query_batch_points(self.name, requests)
        return [[Hit(float(point.score), _row(point.payload)) for point in response.points] for response in responses]

    def _inside(self, row: Row, queries: np.ndarray | Mapping[str, np.ndarray], count: int) -> tuple[Hit, ...]:
        """The best rows whose parent is this one, each with the best rows inside it."""
        by_level = queries
        if not isinstance(by_level, Mapping):
            levels = {inner.level for inner in self._rows(self._filter(tower=row.tower, parent=row.id))}
            by_level = dict.fromkeys(levels, by_level)
        hits = [
            hit
            for level, level_query_D in by_level.items()
            if level
            for hit in self._nearest(
                level_query_D[None], count, self._filter(tower=row.tower, parent=row.id, level=level)
            )[0]
        ]
        best = sorted(hits, key=lambda hit: -hit.score)[:count]
        return tuple(replace(hit, inside=self._inside(hit.row, queries, count)) for hit in best)

    def _rows(self, query_filter: Any) -> Iterator[Row]:
        return (_row(point.payload) for point in self._scroll(self.name, query_filter))

    def _scroll(self, name: str, scroll_filter: Any) -> Iterator[Any]:
        """All points of a collection that a filter matches."""
        after = None
        while True:
            points, after = self.client.scroll(name, scroll_filter, limit=BLOCK, offset=after)
            yield from points
            if after is None:
                return

    def _filter(self, **fields: str | list[str] | None) -> Any:
        """A filter for rows of complete additions whose fields have a given value, or one of several."""
        models = load_qdrant().models
        kinds = {
            key: models.MatchAny(any=value) if isinstance(value, list) else models.MatchValue(value=value)
            for key, value in fields.items()
            if value is not None
        }
        hidden = self._hidden()
        return models.Filter(
            must=[models.FieldCondition(key=key, match=match) for key, match in kinds.items()],
            must_not=[_only("addition", addition).must[0] for addition in hidden],
        )


def _about(name: str) -> str:
    return f"{name}-about"


def _point(key: int) -> str:
    """The id of a point, a UUID."""
    return str(UUID(int=key))


def _only(field: str, value: str) -> Any:
    """A filter for rows whose field has a value."""
    models = load_qdrant().models
    return models.Filter(must=[models.FieldCondition(key=field, match=models.MatchValue(value=value))])


def _having(field: str) -> Any:
    """A filter for points with a field."""
    models = load_qdrant().models
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=field))
    return models.Filter(must_not=[empty])


def _row(payload: Mapping[str, Any]) -> Row:
    return Row.of(json.dumps(payload).encode(), "a row in the database")


def _vector(point: Any) -> np.ndarray:
    """(D,) the vector of a point, which a client returns by name or alone."""
    return np.array(point.vector[""] if isinstance(point.vector, Mapping) else point.vector, np.float32)


def _blocks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while block := list(islice(items, BLOCK)):
        yield block
