"""Search: an index with its model, for queries of any modality that the model reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack, overload

import numpy as np

from ..core.errors import UserError
from ..data.hub import resolve
from ..data.registry import is_pretrained
from .embed import Embedder, Embedding, load_embedder
from .hybrid import DEPTH, fused
from .index import Index
from .late_interaction import MultiVectors, terms_of
from .options import VectorSearch
from .qdrant import QdrantIndex
from .query import Query, ReadTerm, Source, read, vectors
from .results import Results
from .rows import key_of
from .segment import Hit
from .where import Where


@dataclass(frozen=True)
class LateInteraction:
    """How candidates are compared with the tokens of a query; see :meth:`Searcher.search`."""

    level: str = ""
    candidates: int = 100
    by_pieces: bool = False

    def check(self, index: Index | QdrantIndex, level: str, inside: int) -> None:
        """Refuses options that have no effect.

        Raises:
            UserError: names the option.
        """
        if not self.level:
            if self.by_pieces:
                raise UserError("by_pieces has no effect without rerank: name the level of the pieces")
            return
        if self.candidates < 1:
            raise UserError(f"candidates is {self.candidates}; it is at least 1")
        if level:
            raise UserError(f"rerank={self.level!r} orders samples, not pieces of level {level!r}; drop one of both")
        if self.by_pieces and inside:
            raise UserError(f"inside={inside} has no effect with by_pieces; drop one of both")
        if not isinstance(index, Index):
            raise UserError("rerank needs an index in a folder; a Qdrant collection does not give its pieces by sample")

    def count(self, k: int) -> int:
        """Number of samples to search for by single vectors."""
        return max(k, self.candidates) if self.level and not self.by_pieces else k


class SearchOptions(TypedDict, total=False):
    """Keyword arguments of :meth:`Searcher.search`."""

    find: str | None
    level: str
    inside: int
    min_score: float | None
    offset: int
    hybrid: bool
    where: Where | str | None
    exact: bool
    rerank: str
    candidates: int
    by_pieces: bool


@dataclass(frozen=True)
class _Asked:
    """A query that was read, and the tower that is searched with it."""

    terms: Sequence[ReadTerm]
    vector_D: np.ndarray
    words: str
    tower: str


@dataclass(frozen=True)
class Searcher:
    """Answers queries.

    Args:
        index: to search.
        embedder: of the index's model.
    """

    index: Index | QdrantIndex
    embedder: Embedding
    _multi_vectors: dict[tuple[str, str], MultiVectors] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By tower and level, the pieces that were compared last."""

    @classmethod
    def of(cls, index: Index | QdrantIndex | str | Path, run: str | Path | None = None) -> Searcher:
        """Opens an index and loads its model.

        Args:
            index: to search, or its folder.
            run: the run folder, a repository, ``hub:owner/name``, or a pretrained model, ``LIBRARY:NAME``; the one that
                the index names if absent.

        Raises:
            UserError: the folder is not an index, the run is missing, or it has other weights than the index was built
                with.
        """
        opened = Index(Path(index)) if isinstance(index, str | Path) else index
        address = run or opened.model.run
        if is_pretrained(address):
            pretrained = load_embedder(address, dim=opened.model.dim)
            opened.model.check(pretrained.model, f"the model {address}")
            return cls(opened, pretrained)
        folder = resolve(address)
        if not (folder / "config.yaml").is_file():
            if run is not None:
                raise UserError(f"{folder} is not a run folder: it has no config.yaml")
            raise UserError(f"the index names the run {folder}, which does not exist; give it with --run")
        embedder = Embedder.of(folder, dim=opened.model.dim)
        opened.model.check(embedder.model, f"the run {folder}")
        return cls(opened, embedder)

    @overload
    def search(self, query: list[Query | Source], k: int = ..., **options: Unpack[SearchOptions]) -> list[Results]: ...

    @overload
    def search(self, query: Query | Source, k: int = ..., **options: Unpack[SearchOptions]) -> Results: ...

    def search(
        self,
        query: Query | Source | list[Query | Source],
        k: int = 10,
        *,
        find: str | None = None,
        level: str = "",
        inside: int = 0,
        min_score: float | None = None,
        offset: int = 0,
        hybrid: bool = True,
        where: Where | str | None = None,
        exact: bool = False,
        rerank: str = "",
        candidates: int = 100,
        by_pieces: bool = False,
    ) -> Results | list[Results]:
        """The results of a query, best first, or of each query of a list.

        Args:
            query: a text, a path, a Pillow image, an array, a tensor, or a :class:`Query`, which combines several and
                names their towers. Queries of a list are embedded together.
            k: maximum number of results.
            find: tower to search; by default another one than the query's, if the index has one.
            level: of the results; samples if empty.
            inside: number of finer pieces to return within each result.
            min_score: leaves out results with a lower score.
            offset: number of best results to skip.
            hybrid: rank by the words of rows' texts too, if the query has a text. Scores are those of vectors, or of
                ``rerank``, whose order is fused with that by words.
            where: only rows that a filter matches, such as ``year>=2010 and colour=red``; see
                :mod:`hrt_mm.retrieval.where`.
            exact: compare all vectors, also where the index searches approximately.
            rerank: level whose pieces are compared with the query's tokens by MaxSim, to order the candidates; none if
                empty.
            candidates: number of best samples to rerank, at least ``offset + k``.
            by_pieces: the candidates are the samples of the ``candidates`` nearest pieces of each token of the query,
                and as many that match its words best.

        Raises:
            BadSample: the query cannot be read.
            UserError: no tower reads the query, the index has no such tower or no pieces, an option is out of range,
                pieces of the level cannot be compared with the query, or the filter is malformed or names a column that
                no row has.
        """
        late = LateInteraction(rerank, candidates, by_pieces)
        late.check(self.index, level, inside)
        if min(offset, inside) < 0 or k < 1:
            raise UserError(f"k={k}, offset={offset}, inside={inside}: k is at least 1, the others at least 0")
        if min_score is not None and not math.isfinite(min_score):
            raise UserError(f"min_score is {min_score}; it is a finite number")
        self.index.refresh()
        towers = self.index.towers
        if find is not None and towers and find not in towers:
            raise UserError(f"the index has no tower {find!r}; it has {', '.join(towers)}")
        if inside and towers and not self.index.levels:
            raise UserError(f"inside={inside} has no effect: the index has no pieces; embed them with --level")
        queries = [Query.guess(each) for each in (query if isinstance(query, list) else [query])]
        read_queries = [read(each, self.embedder) for each in queries]
        searched = [find or self._answering(terms) for terms in read_queries]
        allowed = self._filter(where)
        asked = []
        vectors_by_level = vectors(read_queries, self.embedder, searched)
        for each, terms, by_level, tower in zip(queries, read_queries, vectors_by_level, searched, strict=True):
            has_levels = tower in self.embedder.towers
            if has_levels and level not in by_level:
                comparable = ", ".join(name for name in by_level if name) or "none"
                raise UserError(
                    f"pieces of level {level!r} of {tower} were not compared with {each} in training; {comparable} were"
                )
            words = " ".join(term.text for term in terms if term.weight > 0) if hybrid else ""
            asked.append(_Asked(terms, by_level[level] if has_levels else by_level[""], words, tower))
        scopes = {tower: VectorSearch(tower, level, allowed, exact=exact) for tower in searched}
        if late.level:
            ranked = [self._late(each, offset + k, scopes[each.tower], late) for each in asked]
        else:
            ranked = self._ranked(asked, offset + k, scopes)
        results = []
        for each, asked_query, by_level, hits in zip(queries, asked, vectors_by_level, ranked, strict=True):
            tower = asked_query.tower
            page = [hit for hit in hits if min_score is None or hit.score >= min_score][offset : offset + k]
            if inside:
                finer = by_level if tower in self.embedder.towers else asked_query.vector_D
                page = self.index.with_pieces(page, inside, finer)
            total = self.index.count(tower, level, allowed)
            recall = 1.0 if exact else self.index.recall(tower, level)
            results.append(Results(tuple(page), each, tower, level, offset, total, recall))
        return results if isinstance(query, list) else results[0]

    def similar(
        self,
        id: str,
        k: int = 10,
        *,
        tower: str | None = None,
        find: str | None = None,
        level: str | None = None,
        offset: int = 0,
        where: Where | str | None = None,
    ) -> Results:
        """The rows that are most like one of the index, without itself.

        Args:
            id: of the row.
            k: maximum number of results.
            tower: of the row; may be absent if a single tower has this id.
            find: tower to search; that of the row if absent.
            level: of the results; that of the row if absent.
            offset: number of best results to skip.
            where: only rows that a filter matches.

        Raises:
            UserError: no row has this id, several towers have it, the index has no such tower, an option is out of
                range, or the filter is malformed.
        """
        if offset < 0 or k < 1:
            raise UserError(f"k={k}, offset={offset}: k is at least 1, and offset at least 0")
        if find is not None and find not in self.index.towers:
            raise UserError(f"the index has no tower {find!r}; it has {', '.join(self.index.towers)}")
        towers = list(self.index.towers) if tower is None else [tower]
        rows = [row for each in towers for row in self.index.rows_with([key_of(each, id)])]
        if len(rows) != 1:
            if not rows:
                raise UserError(f"the index has no row {id!r} of {' or '.join(towers)}")
            raise UserError(f"{' and '.join(row.tower for row in rows)} have a row {id!r}; name one with tower=")
        (row,) = rows
        searched, at = find or row.tower, row.level if level is None else level
        allowed = self._filter(where)
        count = offset + k + 1
        hits = self.index.search(self.index.vector(row), count, tower=searched, level=at, where=allowed)
        others = [hit for hit in hits if hit.row.key != row.key][offset : offset + k]
        total = self.index.count(searched, at, allowed)
        recall = self.index.recall(searched, at)
        return Results(tuple(others), Query.of(row.tower, id), searched, at, offset, total, recall)

    def _filter(self, where: Where | str | None) -> Where | None:
        if where is None:
            return None
        allowed = Where.parse(where) if isinstance(where, str) else where
        if len(self.index):
            allowed.check(self.index.columns)
        return allowed

    def _ranked(self, queries: Sequence[_Asked], count: int, scopes: Mapping[str, VectorSearch]) -> list[list[Hit]]:
        """The best results of each query, at least ``count`` if there are as many rows."""
        ranked: list[list[Hit]] = [[] for _ in queries]
        for tower, scope in scopes.items():
            numbers = [number for number, query in enumerate(queries) if query.tower == tower]
            matches = dict(zip(numbers, self._matches([queries[number] for number in numbers], scope), strict=True))
            for depth, fuses in ((max(count, DEPTH), True), (count, False)):
                chosen = [number for number in numbers if bool(matches[number]) == fuses]
                nearest = self._nearest([queries[number] for number in chosen], depth, scope)
                for number, hits in zip(chosen, nearest, strict=True):
                    ranked[number] = fused(hits, matches[number]) if fuses else hits
        return ranked

    def _nearest(self, queries: Sequence[_Asked], count: int, scope: VectorSearch) -> list[list[Hit]]:
        """The best results of each query by vectors."""
        if not queries:
            return []
        queries_QD = np.stack([query.vector_D for query in queries])
        return self.index.search_many(
            queries_QD, count, tower=scope.tower, level=scope.level, where=scope.where, exact=scope.exact
        )

    def _matches(self, queries: Sequence[_Asked], scope: VectorSearch) -> list[list[tuple[Hit, float]]]:
        """The best results of each query by words, each with its score; none without words."""
        matches: list[list[tuple[Hit, float]]] = [[] for _ in queries]
        if numbers := [number for number, query in enumerate(queries) if query.words]:
            results = self.index.search_words_many(
                [queries[number].words for number in numbers],
                np.stack([queries[number].vector_D for number in numbers]),
                DEPTH,
                tower=scope.tower,
                level=scope.level,
                where=scope.where,
            )
            for number, of_query in zip(numbers, results, strict=True):
                matches[number] = of_query
        return matches

    def _late(self, query: _Asked, k: int, scope: VectorSearch, late: LateInteraction) -> list[Hit]:
        """The best results by late interaction, whose order is fused with that by words."""
        assert isinstance(self.index, Index)
        while True:
            try:
                pieces = self._pieces(query.tower, late.level)
                tokens = terms_of(query.terms, self.embedder, query.tower, late.level)
                (matches,) = self._matches([query], scope)
                if late.by_pieces:
                    hits = pieces.candidates(tokens, late.candidates, scope.where)
                    keys = {hit.row.key for hit in hits}
                    hits += [hit for hit, _ in matches[: late.candidates] if hit.row.key not in keys]
                else:
                    (hits,) = self._nearest([query], max(late.count(k), DEPTH if matches else 0), scope)
                    hits = (fused(hits, matches) if matches else hits)[: late.count(k)]
                hits = pieces.rerank(hits, tokens)
                break
            except (UserError, OSError):
                # Another process may have merged segments and removed their files.
                if not self.index.refresh():
                    raise
        if matches:
            by_key = {hit.row.key: hit for hit in hits}
            hits = fused(hits, [(by_key[hit.row.key], score) for hit, score in matches if hit.row.key in by_key])
        return hits[:k]

    def _pieces(self, tower: str, level: str) -> MultiVectors:
        """The pieces of a level; they are read again after the index has changed."""
        assert isinstance(self.index, Index)
        pieces = self._multi_vectors.get((tower, level))
        if pieces is None or not pieces.current:
            pieces = self._multi_vectors[tower, level] = MultiVectors.of(self.index, tower, level)
        return pieces

    def answering(self, tower: str) -> str:
        """The tower to search by default for queries of a tower: the first other one in the index, if any."""
        others = [other for other in self.index.towers if other != tower]
        return others[0] if others else tower

    def _answering(self, terms: Sequence[ReadTerm]) -> str:
        """The tower to search by default: the first that no term is of, or that of the first term."""
        queried = {term.tower for term in terms}
        others = [tower for tower in self.index.towers if tower not in queried]
        in_index = [term.tower for term in terms if term.tower in self.index.towers]
        return others[0] if others else [*in_index, terms[0].tower][0]
