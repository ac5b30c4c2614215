"""Tasks: model and loss in one module. The registry maps a task's ``type`` to its configuration."""

from __future__ import annotations

from .base import Batch, Task, TaskConfig, TaskOutput
from .classification import Classification, ClassificationConfig
from .ctc import CTC, CTCConfig
from .language import LanguageConfig, LanguageModel
from .masked import Masked, MaskedConfig
from .matching import Matching, MatchingConfig
from .tagging import Tagging, TaggingConfig

TASKS: dict[str, type[TaskConfig]] = {
    "classification": ClassificationConfig,
    "ctc": CTCConfig,
    "language": LanguageConfig,
    "masked": MaskedConfig,
    "matching": MatchingConfig,
    "tagging": TaggingConfig,
}

__all__ = [
    "CTC",
    "TASKS",
    "Batch",
    "CTCConfig",
    "Classification",
    "ClassificationConfig",
    "LanguageConfig",
    "LanguageModel",
    "Masked",
    "MaskedConfig",
    "Matching",
    "MatchingConfig",
    "Tagging",
    "TaggingConfig",
    "Task",
    "TaskConfig",
    "TaskOutput",
]
