"""Decoding: prompts at once, then a token at a time with what each level remembers."""

from __future__ import annotations

from .cache import Cache
from .prefill import prefill
from .stepping import step

__all__ = ["Cache", "prefill", "step"]
