"""Hierarchical Resolution Transformers over text, images, speech and video: the core."""

from .attention import attend
from .errors import BackendError, BadSample, ConfigError, UserError
from .hierarchy import Hierarchy, Transformer
from .levels import CrossScale, FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level
from .pyramid import Pyramid
from .spans import Spans
from .tokens import Tokens

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
