"""Hierarchical Resolution Transformers over text, images, speech and video: the core."""

from .core.attention import attend
from .core.errors import BackendError, BadSample, ConfigError, UserError
from .core.hierarchy import Hierarchy, Transformer
from .core.levels import CrossScale, FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level
from .core.pyramid import Pyramid
from .core.spans import Spans
from .core.tokens import Tokens

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BadSample",
    "ConfigError",
    "CrossScale",
    "FixedGroups",
    "GivenGroups",
    "Hierarchy",
    "HierarchyConfig",
    "LearnedGroups",
    "Level",
    "Pyramid",
    "Spans",
    "Tokens",
    "Transformer",
    "UserError",
    "attend",
]
