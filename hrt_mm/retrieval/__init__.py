"""Retrieval: embedding collections of files, and searching an index of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from .collection import Collection, Writer, writing
    from .embed import Embedder
    from .index import Index
    from .qdrant import QdrantIndex, connect
    from .rows import Model, Row
    from .search import Searcher
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".collection": ("Collection", "Writer", "writing"),
            ".embed": ("Embedder",),
            ".index": ("Index",),
            ".qdrant": ("QdrantIndex", "connect"),
            ".rows": ("Model", "Row"),
            ".search": ("Searcher",),
        },
    )

__all__ = [
    "Collection",
    "Embedder",
    "Index",
    "Model",
    "QdrantIndex",
    "Row",
    "Searcher",
    "Writer",
    "connect",
    "writing",
]
