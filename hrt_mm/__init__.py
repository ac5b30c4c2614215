"""Hierarchical Resolution Transformers over text, images, speech and video.

``import hrt_mm`` imports nothing heavy: what it exports is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.lazy import lazy_exports

if TYPE_CHECKING:
    from .config import load_config
    from .core.attention import attend
    from .core.errors import BackendError, BadSample, ConfigError, UserError
    from .core.hierarchy import Hierarchy, Transformer
    from .core.levels import CrossScale, FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level
    from .core.pyramid import Pyramid
    from .core.spans import Spans
    from .core.tokens import Tokens
    from .data import Dataset, Modality, Tokenizer
    from .inference import create_model, list_models, load_run
    from .train.loop import train
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".config": ("load_config",),
            ".core.attention": ("attend",),
            ".core.errors": ("BackendError", "BadSample", "ConfigError", "UserError"),
            ".core.hierarchy": ("Hierarchy", "Transformer"),
            ".core.levels": ("CrossScale", "FixedGroups", "GivenGroups", "HierarchyConfig", "LearnedGroups", "Level"),
            ".core.pyramid": ("Pyramid",),
            ".core.spans": ("Spans",),
            ".core.tokens": ("Tokens",),
            ".data": ("Dataset", "Modality", "Tokenizer"),
            ".inference": ("create_model", "list_models", "load_run"),
            ".train": ("train",),
        },
    )

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BadSample",
    "ConfigError",
    "CrossScale",
    "Dataset",
    "FixedGroups",
    "GivenGroups",
    "Hierarchy",
    "HierarchyConfig",
    "LearnedGroups",
    "Level",
    "Modality",
    "Pyramid",
    "Spans",
    "Tokenizer",
    "Tokens",
    "Transformer",
    "UserError",
    "attend",
    "create_model",
    "list_models",
    "load_config",
    "load_run",
    "train",
]
