"""Search: an index with its model, for queries of any modality that the model reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import UserError
from .embed import Embedder
from .index import Hit, Index
from .qdrant import QdrantIndex


@dataclass(frozen=True)
class Searcher:
    """Answers queries.

    Args:
        index: to search.
        embedder: of the index's model.
    """

    index: Index | QdrantIndex
    embedder: Embedder

    @classmethod
    def of(cls, index: Index | QdrantIndex, run: Path | None = None) -> Searcher:
        """Loads the model of an index.

        Args:
            index: to search.
            run: the run folder; the one that the index names if absent.

        Raises:
            UserError: the run is missing, or has other weights than the index was built with.
        """
        folder = run or Path(index.model.run)
        if not (folder / "config.yaml").is_file():
            raise UserError(f"the index names the run {folder}, which does not exist; give it with --run")
        embedder = Embedder.of(folder)
        index.model.check(embedder.model, f"the run {folder}")
        return cls(index, embedder)

    def search(
        self,
        kind: str,
        source: str | Path,
        k: int = 10,
        *,
        find: str | None = None,
        level: str = "",
        inside: int = 0,
    ) -> list[Hit]:
        """The results of a query, best first.

        Args:
            kind: of the query, a tower of the model: ``text``, ``image``.
            source: a text, or a file.
            k: maximum number of results.
            find: tower to search; by default another tower than ``kind``, if the index has one.
            level: of the results; samples if empty.
            inside: number of finer pieces to return within each result.

        Raises:
            BadSample: the query cannot be read.
            UserError: the model has no such tower, the index has no such tower, or pieces of the level cannot be
                compared with the query.
        """
        if kind not in self.embedder.towers:
            raise UserError(f"the model cannot read --{kind}; it reads {', '.join(self.embedder.towers)}")
        tower = find or self.answering(kind)
        if find is not None and len(self.index) and find not in self.index.towers:
            raise UserError(f"the index has no {find!r} to find; it has {', '.join(self.index.towers)}")
        if not (level or inside) or tower not in self.embedder.towers:
            return self.index.search(self.embedder.query(kind, source), k, tower=tower, level=level, inside=inside)
        queries = self.embedder.queries(kind, source, tower)
        if level not in queries:
            comparable = ", ".join(name for name in queries if name) or "none"
            raise UserError(
                f"pieces of level {level!r} of {tower} were not compared with {kind} in training; {comparable} were"
            )
        return self.index.search(queries[level], k, tower=tower, level=level, inside=inside, finer=queries)

    def answering(self, kind: str) -> str | None:
        """The tower to search by default: the first that is not the query's, if any."""
        others = [tower for tower in self.index.towers if tower != kind]
        return others[0] if others else kind
