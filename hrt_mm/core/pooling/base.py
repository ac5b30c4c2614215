"""The interface of poolings: the tokens of a group to one token, and one token back to its group.

Shapes: T tokens, G groups, D width of a token, W width of a pooled token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..segments import segment_broadcast
from ..spans import Spans

POOLINGS: dict[str, type[Pooling]] = {}
"""Poolings by name."""


@dataclass(frozen=True, eq=False)
class PoolingSpec:
    """The level that a pooling reduces.

    Args:
        dim: width of a token.
        heads: attention heads of the level.
        group_size: number of positions in a group: its fixed size, or its maximum length.
        axes: number of coordinate axes.
        theta: base of the rotary frequencies.
        backend: attention backend.
    """

    dim: int
    heads: int
    group_size: int
    axes: int = 1
    theta: float = 10000.0
    backend: str = "auto"


@dataclass(frozen=True, eq=False)
class PoolingGroups:
    """The groups of a batch, as passed to poolings.

    Args:
        spans: the groups.
        position_in_group_T: computes the (T,) positions of the tokens in their groups, below ``group_size``.
        group_size: number of positions in a group.
        full: every group has exactly ``group_size`` tokens, in the order of their positions.
        coords_TC: coordinates of the tokens in units of their level.
    """

    spans: Spans
    position_in_group_T: Callable[[], Tensor]
    group_size: int
    full: bool
    coords_TC: Tensor


class Pooling(nn.Module, ABC):
    """Pools ragged groups. ``width`` is the width of a pooled token."""

    def __init__(self, spec: PoolingSpec) -> None:
        super().__init__()
        self.width = spec.dim

    @abstractmethod
    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        """Pools (T, D) tokens to (G, W). Empty groups give zeros."""

    def unpool(self, x_GD: Tensor, spans: Spans) -> Tensor:
        """Maps (G, D) group tokens back to (T, D): by default each token gets a copy."""
        return segment_broadcast(x_GD, spans)


def register_pooling(name: str) -> Callable[[type[Pooling]], type[Pooling]]:
    """Registers a pooling class under ``pool: name``.

    Raises:
        ValueError: the name is taken.
    """

    def add(pooling: type[Pooling]) -> type[Pooling]:
        if name in POOLINGS:
            raise ValueError(f"pooling {name!r} is already registered: {POOLINGS[name].__qualname__}")
        POOLINGS[name] = pooling
        return pooling

    return add
