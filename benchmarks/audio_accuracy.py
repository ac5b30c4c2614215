"""Spoken digits at equal time for the contenders of ``benchmarks.audio``."""

from __future__ import annotations

from functools import partial
from typing import Any

from hrt_mm.config import load_config
from hrt_mm.train.build import Data
from hrt_modalities.audio import Audio, AudioTokenizer

from . import curves as learning
from . import patches
from .curves import Classifier
from .models import Pooled

CONFIGS = {"hierarchy": "audio/fsdd", "flat": "audio/fsdd_flat", "AST-like": "audio/fsdd"}
RATES = (1e-3, 2e-3)


def curves(seconds: float, *, quick: bool = False) -> dict[str, Any]:
    """Trains each contender for some seconds of computing, as :func:`benchmarks.curves.curves` says."""
    contenders = {name: partial(build, name) for name in CONFIGS}
    return learning.curves(load_config("audio/fsdd"), contenders, seconds, RATES, _length, quick=quick)


def build(name: str, data: Data) -> Classifier:
    """A contender."""
    config = load_config(CONFIGS[name])
    assert data.classes is not None
    tokenizer = config.single.modality.build()
    assert isinstance(tokenizer, AudioTokenizer)
    dropout = float(getattr(config.task, "dropout", 0.0))
    pooled = Pooled(config.single.model, tokenizer)
    if name != "AST-like":
        return Classifier(pooled, config.single.model.levels[-1].dim, len(data.classes), dropout)
    target = sum(weight.numel() for weight in pooled.parameters())
    depth = sum(level.depth for level in config.single.model.levels)
    model = patches.fitted(tokenizer.config.mels, tokenizer.stack, depth, target)
    return Classifier(model, model.vit.embed_dim, len(data.classes), dropout)


def table(results: dict[str, Any]) -> str:
    """The curves as Markdown."""
    return learning.table(results, "FSDD's official test split")


def _length(value: Audio) -> int:
    return len(value.waveform_S)
