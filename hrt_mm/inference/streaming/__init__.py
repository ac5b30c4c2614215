"""Streams: what a causal model gives, as its input comes in, in constant memory and equal to the forward pass."""

from __future__ import annotations

from .levels import Finished, HierarchyStream, latencies, unbounded
from .stream import Stream

__all__ = ["Finished", "HierarchyStream", "Stream", "latencies", "unbounded"]
