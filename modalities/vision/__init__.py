"""Vision: images as patches, regions, areas and the whole."""

from __future__ import annotations

from hrt_mm.modality import Modality

from .files import FolderConfig
from .manifest import ManifestConfig
from .memory import Cifar10Config, DigitsConfig, FashionMnistConfig, MnistConfig
from .tokenizer import VisionConfig, VisionTokenizer


class Vision(Modality):
    """Images of any and mixed sizes."""

    name = "vision"
    tokenizer = VisionConfig
    datasets = (DigitsConfig, FolderConfig, ManifestConfig, MnistConfig, FashionMnistConfig, Cifar10Config)


__all__ = ["Vision", "VisionConfig", "VisionTokenizer"]
