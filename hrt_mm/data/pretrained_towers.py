"""The contract of pretrained models of other libraries whose towers can be compared, such as a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .tokenizer import Tokenizer


@dataclass(frozen=True)
class PretrainedTower:
    """An encoder of one modality.

    Args:
        modality: its name.
        tokenizer: gives each sample as one token, with all that the encoder reads as its features.
        encode: from these features (B, ...) to vectors (B, D) that can be compared with those of other towers.
    """

    modality: str
    tokenizer: Tokenizer
    encode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PretrainedTowers:
    """A pretrained model.

    Args:
        module: with the weights of all towers.
        towers: by name.
        width: of the vectors.
    """

    module: nn.Module
    towers: Mapping[str, PretrainedTower]
    width: int


TowersLoader = Callable[[str], PretrainedTowers]
"""Loads a model by its name in a library, or from a folder."""
