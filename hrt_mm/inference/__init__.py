"""Inference: trained runs, text generation and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from .create import create_model, list_models
    from .export import ClassComparison, ExportedFile, compare_classes, export_run
    from .generation import GeneratedText, Sampling, Session, continued, generate
    from .locating import LevelVectors
    from .predictions import (
        Attribution,
        MaskPrediction,
        MultilabelPrediction,
        NumberPrediction,
        Predicted,
        PredictedSpan,
        Prediction,
        SpanPrediction,
        TextPrediction,
    )
    from .sharing import PretrainedEncoder, from_pretrained, push_to_hub, save_pretrained
    from .streaming import Finished, HierarchyStream, Stream, latencies
    from .trained import TrainedRun, evaluate_run, load_run, load_task
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".create": ("create_model", "list_models"),
            ".locating": ("LevelVectors",),
            ".export": ("ClassComparison", "ExportedFile", "compare_classes", "export_run"),
            ".sharing": ("PretrainedEncoder", "from_pretrained", "push_to_hub", "save_pretrained"),
            ".predictions": (
                "Attribution",
                "MaskPrediction",
                "MultilabelPrediction",
                "NumberPrediction",
                "Predicted",
                "PredictedSpan",
                "Prediction",
                "SpanPrediction",
                "TextPrediction",
            ),
            ".trained": ("TrainedRun", "evaluate_run", "load_run", "load_task"),
            ".generation": ("GeneratedText", "Sampling", "Session", "continued", "generate"),
            ".streaming": ("Finished", "HierarchyStream", "Stream", "latencies"),
        },
    )

__all__ = [
    "Attribution",
    "ClassComparison",
    "ExportedFile",
    "Finished",
    "GeneratedText",
    "HierarchyStream",
    "LevelVectors",
    "MaskPrediction",
    "MultilabelPrediction",
    "NumberPrediction",
    "Predicted",
    "PredictedSpan",
    "Prediction",
    "PretrainedEncoder",
    "Sampling",
    "Session",
    "SpanPrediction",
    "Stream",
    "TextPrediction",
    "TrainedRun",
    "compare_classes",
    "continued",
    "create_model",
    "evaluate_run",
    "export_run",
    "from_pretrained",
    "generate",
    "latencies",
    "list_models",
    "load_run",
    "load_task",
    "push_to_hub",
    "save_pretrained",
]
