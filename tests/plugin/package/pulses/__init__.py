"""A modality in one file: short series of numbers that lie above or below zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.modality import Modality
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer, TokenizerConfig


class PulsesConfig(TokenizerConfig):
    """Series of numbers, a token each."""

    type: Literal["pulses"]
    gain: float = 1.0
    """What the numbers are multiplied by."""

    def build(self, model: HierarchyConfig | None = None) -> PulsesTokenizer:
        return PulsesTokenizer(self.gain)


class PulsesTokenizer(Tokenizer):
    """Packs (t,) series as (T, 1) tokens."""

    axes = 1
    levels = ("pulses", "bars", "series")

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, values: Sequence[Any]) -> Tokens:
        for index, value in enumerate(values):
            if not (isinstance(value, Tensor) and value.ndim == 1):
                raise BadSample(f"series {index}", "a series is a tensor of one dimension")
        return Tokens.pack([self.gain * value[:, None] for value in values])

    def embedding(self, dim: int) -> nn.Module:
        return PulsesEmbedding(dim)

    def size(self, shape: Sequence[int]) -> int:
        return shape[0]


class PulsesEmbedding(nn.Module):
    """A linear map of each number."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(1, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_x(self.project(tokens.x))


class NoiseConfig(DatasetConfig):
    """Noise about +1 or -1, of mixed lengths."""

    type: Literal["noise"]
    count: PositiveInt = 64
    """Series a split."""

    def build(self, split: str) -> Noise:
        seeds = {"train": 0, "val": 1, "test": 2}
        if split not in seeds:
            raise ConfigError(f"noise has no split {split!r}; one of {', '.join(seeds)}")
        return Noise(self.count, seeds[split])


class Noise(Dataset):
    """The series of a split."""

    classes = ("high", "low")

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(5, 30, (count,), generator=generator).tolist()
        self.series = [
            torch.randn(length, generator=generator) + (1 - 2 * (index % 2)) for index, length in enumerate(lengths)
        ]

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.series[index], self.classes[index % 2], f"series {index}")

    def shape(self, index: int) -> Sequence[int]:
        return tuple(self.series[index].shape)


class Pulses(Modality):
    """What the package registers."""

    name = "pulses"
    tokenizer = PulsesConfig
    datasets = (NoiseConfig,)
