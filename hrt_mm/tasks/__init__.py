"""Tasks: model and loss in one module. The registry maps a task's ``type`` to its configuration."""

from __future__ import annotations

from .base import Collator, Task, TaskConfig, TaskOutput
from .batch import Batch, TowerTokens
from .boundary import Boundary, BoundaryConfig
from .classification import Classification, ClassificationConfig
from .contrastive import Contrastive, ContrastiveConfig
from .ctc.task import CTC, CTCConfig
from .encoder import Encoder
from .encoding import EncoderTaskConfig
from .fused import Fused, FusedConfig
from .generation import Generation, GenerationConfig
from .joint import JointTask, JointTaskConfig
from .language import LanguageConfig, LanguageModel
from .masked import Masked, MaskedConfig
from .matching import Matching, MatchingConfig
from .multilabel import Multilabel, MultilabelConfig
from .regression import Regression, RegressionConfig
from .segmentation import Segmentation, SegmentationConfig
from .semantic import SemanticSegmentation, SemanticSegmentationConfig
from .tagging import Tagging, TaggingConfig

TASKS: dict[str, type[TaskConfig]] = {
    "boundary": BoundaryConfig,
    "classification": ClassificationConfig,
    "contrastive": ContrastiveConfig,
    "ctc": CTCConfig,
    "fused_classification": FusedConfig,
    "generation": GenerationConfig,
    "language": LanguageConfig,
    "masked": MaskedConfig,
    "matching": MatchingConfig,
    "multilabel": MultilabelConfig,
    "regression": RegressionConfig,
    "segmentation": SegmentationConfig,
    "semantic_segmentation": SemanticSegmentationConfig,
    "tagging": TaggingConfig,
}

__all__ = [
    "CTC",
    "TASKS",
    "Batch",
    "Boundary",
    "BoundaryConfig",
    "CTCConfig",
    "Classification",
    "ClassificationConfig",
    "Collator",
    "Contrastive",
    "ContrastiveConfig",
    "Encoder",
    "EncoderTaskConfig",
    "Fused",
    "FusedConfig",
    "Generation",
    "GenerationConfig",
    "JointTask",
    "JointTaskConfig",
    "LanguageConfig",
    "LanguageModel",
    "Masked",
    "MaskedConfig",
    "Matching",
    "MatchingConfig",
    "Multilabel",
    "MultilabelConfig",
    "Regression",
    "RegressionConfig",
    "Segmentation",
    "SegmentationConfig",
    "SemanticSegmentation",
    "SemanticSegmentationConfig",
    "Tagging",
    "TaggingConfig",
    "Task",
    "TaskConfig",
    "TaskOutput",
    "TowerTokens",
]
