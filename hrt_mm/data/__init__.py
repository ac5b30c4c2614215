"""Data: samples, tokenizers, datasets and modalities, and what reads files safely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from .dataset import Dataset, DatasetConfig
    from .modality import Modality
    from .sample import Sample
    from .tokenizer import Tokenizer, TokenizerConfig
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            ".dataset": ("Dataset", "DatasetConfig"),
            ".modality": ("Modality",),
            ".sample": ("Sample",),
            ".tokenizer": ("Tokenizer", "TokenizerConfig"),
        },
    )

__all__ = ["Dataset", "DatasetConfig", "Modality", "Sample", "Tokenizer", "TokenizerConfig"]
