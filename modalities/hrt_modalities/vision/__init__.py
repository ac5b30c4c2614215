"""Vision: images as patches, regions, areas and the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import Tokenizer

from .files import ImageFolderConfig, ImageHuggingFaceConfig, ImageManifestConfig, ImageShardsConfig
from .images import SUFFIXES
from .masks import ImageMasksConfig
from .memory import Cifar10Config, DigitsConfig, FashionMnistConfig, MnistConfig
from .shapes import ShapesConfig
from .tokenizer import VisionConfig, VisionTokenizer


class Vision(Modality):
    """Images of any and mixed sizes."""

    name = "vision"
    extra = "vision"
    tokenizer = VisionConfig
    datasets = (
        DigitsConfig,
        ImageFolderConfig,
        ImageManifestConfig,
        ImageHuggingFaceConfig,
        ImageShardsConfig,
        ImageMasksConfig,
        ShapesConfig,
        MnistConfig,
        FashionMnistConfig,
        Cifar10Config,
    )
    suffixes = SUFFIXES

    @classmethod
    def read(cls, path: Path) -> Any:
        """The image of a file.

        Raises:
            BadSample: the file is missing or no image.
        """
        from .images import read_image

        return read_image(path, path.name)

    @classmethod
    def reads_value(cls, value: object) -> bool:
        """Whether a value is a Pillow image, or an array or a tensor of two or three axes."""
        from .images import is_pillow

        return is_pillow(value) or (isinstance(value, np.ndarray | Tensor) and value.ndim in (2, 3))

    @classmethod
    def from_value(cls, value: Any) -> Tensor:
        """The image of a Pillow image, a tensor (C, H, W), or an array (H, W) or (H, W, C).

        Raises:
            BadSample: the value is none of them, or its shape, type or range cannot be used.
        """
        from .images import check_image, from_array

        return check_image(from_array(value) if isinstance(value, np.ndarray) else value, "the image")

    @classmethod
    def render(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes]:
        """The image as PNG."""
        from .images import png

        return ".png", png(value)

    @classmethod
    def dense_model(cls, encoder: nn.Module, tokenizer: Tokenizer, **options: Any) -> nn.Module:
        """The encoder of a run with timm's interface.

        Raises:
            ConfigError: the stem is a timm backbone, images are read as sequences, or the model has levels without a
                feature map.
        """
        from .timm_models import from_encoder

        if not isinstance(tokenizer, VisionTokenizer):
            raise ConfigError("modality.sequence reads pixels one after another, and has no feature maps; drop it")
        return from_encoder(encoder, tokenizer, **options)

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws images."""
        from .figures import draw_image

        return draw_image


__all__ = ["Vision", "VisionConfig", "VisionTokenizer"]
