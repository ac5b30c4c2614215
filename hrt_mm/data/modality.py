"""The contract of a modality: what a plug-in registers.

What only some modalities can do is in :mod:`hrt_mm.data.capabilities`.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from .dataset import DatasetConfig
from .tokenizer import TokenizerConfig


class Modality(ABC):
    """What a plug-in registers."""

    name: ClassVar[str]
    tokenizer: ClassVar[type[TokenizerConfig]]
    datasets: ClassVar[tuple[type[DatasetConfig], ...]]
    suffixes: ClassVar[frozenset[str] | None] = None
    """Suffixes of the files that it reads, in lower case, with the dot. With ``None``, all files of a folder are tried
    that belong to no other modality."""
    extra: ClassVar[str] = ""
    """The extra of its distribution that brings the libraries it uses; empty when it needs none."""
