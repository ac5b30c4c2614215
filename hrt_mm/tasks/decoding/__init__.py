"""Decoding of causal models over ids: sequences that are continued a token at a time, sampling and beam search."""

from __future__ import annotations

from .continuation import Continuation, Writer
from .sampling import Sampling
from .search import Written, search

__all__ = ["Continuation", "Sampling", "Writer", "Written", "search"]
