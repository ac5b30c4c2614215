"""Vision: images as patches, regions, areas and the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrt_mm.data.modality import Modality

from .files import ImageFolderConfig
from .images import SUFFIXES
from .manifest import ImageManifestConfig
from .memory import Cifar10Config, DigitsConfig, FashionMnistConfig, MnistConfig
from .tokenizer import VisionConfig, VisionTokenizer


class Vision(Modality):
    """Images of any and mixed sizes."""

    name = "vision"
    extra = "vision"
    tokenizer = VisionConfig
    datasets = (DigitsConfig, ImageFolderConfig, ImageManifestConfig, MnistConfig, FashionMnistConfig, Cifar10Config)
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
    def shown(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes]:
        """The image as PNG."""
        from .images import png

        return ".png", png(value)

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws images."""
        from .figures import draw_image

        return draw_image


__all__ = ["Vision", "VisionConfig", "VisionTokenizer"]
