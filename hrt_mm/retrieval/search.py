"""A model and an index together: what answers queries of any modality that the model reads."""

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
        index: what is searched.
        embedder: of the index's model.
    """

    index: Index | QdrantIndex
    embedder: Embedder

    @classmethod
    def of(cls, index: Index | QdrantIndex, run: Path | None = None) -> Searcher:
        """An index with its model.

        Args:
            index: what is searched.
            run: the run folder; the one that the index names when absent.

        Raises:
            UserError: the run is gone, or its weights are not those that the index was made with.
        """
        folder = run or Path(index.model.run)
        if not (folder / "config.yaml").is_file():
            raise UserError(f"the index names the run {folder}, which is not there; give it with --run")
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
        """The answers to a query, best first.

        Args:
            kind: of the query, a tower of the model: ``text``, ``image``.
            source: a text, or a file.
            k: answers at most.
            find: the part that answers; one that the query is not, where the index has it, when absent.
            level: of the answers; whole samples when empty.
            inside: how many finer pieces within each answer are given with it.

        Raises:
            BadSample: the query cannot be read.
            UserError: the model reads no such kind, the index has no such part, or pieces of the level cannot be
                compared with the query.
        """
        if kind not in self.embedder.towers:
            raise UserError(f"the model cannot read --{kind}; it reads {', '.join(self.embedder.towers)}")
        part = find or self.answering(kind)
        if find is not None and len(self.index) and find not in self.index.parts:
            raise UserError(f"the index has no {find!r} to find; it has {', '.join(self.index.parts)}")
        if not (level or inside) or part not in self.embedder.towers:
            return self.index.search(self.embedder.query(kind, source), k, part=part, level=level, inside=inside)
        queries = self.embedder.queries(kind, source, part)
        if level not in queries:
            known = ", ".join(own for own in queries if own) or "none"
            raise UserError(
                f"pieces of level {level!r} of {part} were not compared with {kind} in training; {known} were"
            )
        return self.index.search(queries[level], k, part=part, level=level, inside=inside, finer=queries)

    def answering(self, kind: str) -> str | None:
        """The part that answers a query: the first of another kind, or the query's own where there is no other."""
        others = [part for part in self.index.parts if part != kind]
        return others[0] if others else kind
