"""Images as sequences of grey pixels, as in Long Range Arena (arXiv 2011.04006) and sequential MNIST (1504.00941).

Shapes: T tokens, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import Contextual
from hrt_mm.data.tokenizer import Tokenizer

from ..text.tokenizer import TextEmbedding
from .images import Fit, Size, check_image, resized, with_channels

SHADES = 256


class PixelSequence(Component):
    """Grey pixels one after another in place of patches on a grid."""

    recent: PositiveInt = 4
    """Receptive field of the convolution of the embedding in pixels: itself and those before it."""
    permute: NonNegativeInt | None = None
    """Seed of a fixed order of the pixels, as in permuted MNIST; row by row when absent."""


class PixelTokenizer(Tokenizer, Contextual):
    """Reads images as sequences of shades, row by row.

    Takes what :class:`~.tokenizer.VisionTokenizer` takes. Returns shades (T,), int64 in 0..255.

    Args:
        config: the order, and the convolution.
        size: rows and columns to resize to; every image keeps its own size when absent.
        fit: how images are resized.
    """

    axes = 1
    levels = ("pixels", "strips", "bands", "image")
    vocabulary = SHADES

    def __init__(self, config: PixelSequence, size: Size | None, fit: Fit) -> None:
        self.config, self.size_of_all, self.fit = config, size, fit
        self.receptive_field = config.recent
        self.orders: dict[int, Tensor] = {}

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs images.

        Raises:
            BadSample: a value is no image; names its index in the batch.
        """
        pixels = [self._shades(value, f"image {index} of the batch") for index, value in enumerate(values)]
        spans = Spans.from_lengths([len(shades) for shades in pixels])
        return Tokens(torch.cat(pixels), spans, spans.positions[:, None].float())

    def _shades(self, value: Any, name: str) -> Tensor:
        image = with_channels(check_image(value, name), 1)
        shades = image.float() if image.dtype == torch.uint8 else image.float() * (SHADES - 1)
        if self.size_of_all is not None and tuple(shades.shape[1:]) != self.size_of_all:
            shades = resized(shades[None], self.size_of_all, self.fit)[0]
        sequence = shades.round().clamp(0, SHADES - 1).long().flatten()
        if self.config.permute is None:
            return sequence
        return sequence[self._order(len(sequence), self.config.permute)]

    def _order(self, length: int, seed: int) -> Tensor:
        if length not in self.orders:
            self.orders[length] = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
        return self.orders[length]

    def embedding(self, dim: int) -> nn.Module:
        """A vector for each shade, and a causal convolution over the pixels before."""
        return TextEmbedding(SHADES, dim, self.config.recent)

    def size(self, shape: Sequence[int]) -> int:
        """Number of pixels of an image of shape (C, H, W)."""
        rows, columns = self.size_of_all or (shape[-2], shape[-1])
        return rows * columns

    def restore(self, tokens: Tokens) -> list[Tensor]:
        """The sequences as pictures (1, H, W), float32 in 0..1: square where their length is a square, else one row."""
        pictures = []
        for sequence in tokens.split():
            if self.config.permute is not None:
                order = self._order(len(sequence), self.config.permute).to(sequence.device)
                sequence = torch.empty_like(sequence).index_copy_(0, order, sequence)
            side = math.isqrt(len(sequence))
            rows = self.size_of_all[0] if self.size_of_all else side if side * side == len(sequence) else 1
            pictures.append(sequence.view(1, rows, -1).float() / (SHADES - 1))
        return pictures
