"""Streams: what a causal model gives, as its input comes in, in constant memory and equal to the forward pass."""

from __future__ import annotations

from .heard import Heard
from .levels import Finished, HierarchyStream, latencies, unbounded
from .recognizer import Recognizer
from .stream import Stream

__all__ = ["Finished", "Heard", "HierarchyStream", "Recognizer", "Stream", "latencies", "unbounded"]
