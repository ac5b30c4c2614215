"""Decoding: prompts at once, then a token at a time with what each level remembers."""

from __future__ import annotations

from ...core.causal import Memory as Cache
from ...core.causal import prefill, step
from ...tasks.decoding import Sampling
from .generate import GeneratedText, continued, generate
from .saving import cache_of, cache_state
from .session import Session

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
