"""Decoding of causal models over ids: sequences that are continued a token at a time, sampling and beam search."""

from __future__ import annotations

from .continuation import Continuation, TextDecoder
from .sampling import Sampling
from .search import Written, search

__all__ = ["Continuation", "Sampling", "TextDecoder", "Written", "search"]
