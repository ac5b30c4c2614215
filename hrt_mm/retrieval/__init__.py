"""Retrieval: embedding collections of files, and searching an index of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from .collection import Collection, Writer, writing
    from .embed import Embedder, PretrainedEmbedder, load_embedder
    from .index import Index
    from .qdrant import QdrantIndex
    from .qdrant_connection import connect
    from .query import Query
    from .results import Results
    from .rows import Model, Row
    from .search import Searcher
    from .segment import Hit
    from .where import Where
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".collection": ("Collection", "Writer", "writing"),
            ".embed": ("Embedder", "PretrainedEmbedder", "load_embedder"),
            ".index": ("Index",),
            ".qdrant": ("QdrantIndex",),
            ".qdrant_connection": ("connect",),
            ".query": ("Query",),
            ".results": ("Results",),
            ".rows": ("Model", "Row"),
            ".search": ("Searcher",),
            ".segment": ("Hit",),
            ".where": ("Where",),
        },
    )

__all__ = [
    "Collection",
    "Embedder",
    "Hit",
    "Index",
    "Model",
    "PretrainedEmbedder",
    "QdrantIndex",
    "Query",
    "Results",
    "Row",
    "Searcher",
    "Where",
    "Writer",
    "connect",
    "load_embedder",
    "writing",
]
