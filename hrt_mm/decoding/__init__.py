"""Decoding: prompts at once, then a token at a time with what each level remembers."""

from __future__ import annotations

from .cache import Cache
from .generate import Piece, Session, generate
from .prefill import prefill
from .sampling import Sampling
from .stepping import step

__all__ = ["Cache", "Piece", "Sampling", "Session", "generate", "prefill", "step"]
