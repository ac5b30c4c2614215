"""What a search is limited to, and what it returns: the keyword arguments that all stores share.

Shapes: Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from ..core.errors import UserError
from .rows import check_queries, check_query
from .where import Where


class ScopeKeywords(TypedDict, total=False):
    """Keyword arguments for a :class:`Scope`."""

    tower: str | None
    level: str
    where: Where | None


class VectorSearchKeywords(ScopeKeywords, total=False):
    """Keyword arguments for a :class:`VectorSearch`."""

    inside: int
    finer: Mapping[str, np.ndarray] | None
    exact: bool


@dataclass(frozen=True)
class Scope:
    """The rows to search.

    Args:
        tower: of the results; any if absent.
        level: of the results; samples if empty.
        where: only rows that it matches.
    """

    tower: str | None = None
    level: str = ""
    where: Where | None = None


@dataclass(frozen=True)
class VectorSearch(Scope):
    """How to search by vectors.

    Args:
        inside: number of finer rows to return within each result.
        finer: query vectors by level, for the finer rows. Levels without one are left out. If absent, the query's
            vector is used for all levels.
        exact: compare all rows, also where the recall of the index is below 1.
    """

    inside: int = 0
    finer: Mapping[str, np.ndarray] | None = None
    exact: bool = False

    def checked(self, k: int, dim: int, queries: int | None = None) -> VectorSearch:
        """A copy whose vectors are float32.

        Args:
            k: number of results.
            dim: width of the index's vectors.
            queries: number of queries, of which there is a vector each; one vector, (D,), if absent.

        Raises:
            UserError: a vector has another width or is not finite, or there are more or fewer vectors than queries.
        """
        if self.finer is None:
            return self
        check = check_query if queries is None else check_queries
        finer = {level: check(vectors, k, dim) for level, vectors in self.finer.items()}
        for level, vectors in finer.items():
            if queries is not None and len(vectors) != queries:
                raise UserError(f"{queries} queries have {len(vectors)} vectors of level {level!r}")
        return replace(self, finer=finer)

    def of_query(self, number: int) -> VectorSearch:
        """The options of one of several queries."""
        if self.finer is None:
            return self
        return replace(self, finer={level: vectors_QD[number] for level, vectors_QD in self.finer.items()})
