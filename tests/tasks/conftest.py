"""Small tokenizers of feature rows and of ids, and hierarchies over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import Tokenizer


class RowEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(4, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_x(self.project(tokens.x))


class IdEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(11, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_x(self.table(tokens.x))


class Mute(Tokenizer):
    """Rows of which masked modelling does not know what they are."""

    axes = 1
    levels = ("rows",)
    boundaries = ("thirds",)

    def __call__(self, values: Sequence[Any]) -> Tokens:
        starts = [torch.arange(len(value)) % 3 == 0 for value in values]
        return Tokens.pack(values, boundaries={"thirds": starts})

    def embedding(self, dim: int) -> nn.Module:
        return RowEmbedding(dim)


class Ids(Tokenizer):
    axes = 1
    levels = ("ids",)
    vocabulary = 11

    def __call__(self, values: Sequence[Any]) -> Tokens:
        return Tokens.pack(values)

    def embedding(self, dim: int) -> nn.Module:
        return IdEmbedding(dim)


class Rows(Mute):
    features = 4


def hierarchy(levels: int = 3, groups: Sequence[dict[str, Any]] | None = None, **options: Any) -> HierarchyConfig:
    result = []
    for index in range(levels):
        level: dict[str, Any] = {"name": "abc"[index], "dim": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
        if index + 1 < levels:
            level["group"] = groups[index] if groups else {"type": "fixed", "stride": 2}
        result.append(level)
    return HierarchyConfig.model_validate({"levels": result, **options})


def unzero(module: nn.Module) -> None:
    """Gives the residual branches, which start at zero, something to say."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def ids() -> Ids:
    return Ids()


@pytest.fixture
def mute() -> Mute:
    return Mute()


@pytest.fixture(name="hierarchy")
def hierarchy_fixture() -> Callable[..., HierarchyConfig]:
    return hierarchy


@pytest.fixture(name="unzero")
def unzero_fixture() -> Callable[[nn.Module], None]:
    return unzero


@pytest.fixture
def samples() -> list[Tensor]:
    return [torch.randn(length, 4) for length in (13, 1, 8, 6)]
