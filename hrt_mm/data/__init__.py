"""Data: samples, tokenizers, datasets and modalities, and what reads files safely."""

from .dataset import Dataset, DatasetConfig
from .modality import Modality
from .sample import Sample
from .tokenizer import Tokenizer, TokenizerConfig

__all__ = ["Dataset", "DatasetConfig", "Modality", "Sample", "Tokenizer", "TokenizerConfig"]
