"""The causal pass over new tokens and a memory of those before: prompts, decoding steps and streams are calls of it."""

from __future__ import annotations

from .engine import CausalPass, LevelTokens
from .groups import Flags
from .keys import KeyValues
from .memory import Memory
from .steps import prefill, step

__all__ = ["CausalPass", "Flags", "KeyValues", "LevelTokens", "Memory", "prefill", "step"]
