"""Decoding: prompts at once, then a token at a time with what each level remembers."""

from __future__ import annotations

from ...core.causal import Memory as Cache
from .generate import GeneratedText, continued, generate
from .sampling import Sampling
from .saving import cache_of, cache_state
from .session import Session
from .steps import prefill, step

__all__ = [
    "Cache",
    "GeneratedText",
    "Sampling",
    "Session",
    "cache_of",
    "cache_state",
    "continued",
    "generate",
    "prefill",
    "step",
]
