"""What a pooling is: how the tokens of a group become one token, and how one token goes back to its group.

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
"""Every pooling by name."""


@dataclass(frozen=True, eq=False)
class PoolingSpec:
    """Where a pooling sits: the level that it pools, and the usual tokens a group.

    Args:
        dim: width of a token.
        heads: attention heads of the level.
        group_size: tokens of a group of usual size, or the longest one.
        axes: axes of the coordinates.
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
    """The groups of a batch, as poolings see them.

    Args:
        spans: the groups over the tokens.
        position_in_group_T: (T,) position of each token, below ``group_size``: its place in its group.
        group_size: positions of a group.
        full: every group has just ``group_size`` tokens, in the order of their positions.
        coords_TC: positions of the tokens in steps of their level.
    """

    spans: Spans
    position_in_group_T: Callable[[], Tensor]
    group_size: int
    full: bool
    coords_TC: Tensor


class Pooling(nn.Module, ABC):
    """Pools ragged groups. ``width`` is the width of what it gives."""

    def __init__(self, site: PoolingSpec) -> None:
        super().__init__()
        self.width = site.dim

    @abstractmethod
    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        """(T, D) tokens to (G, W) pooled ones. An empty group gives zeros."""

    def unpool(self, x_GD: Tensor, spans: Spans) -> Tensor:
        """(G, D) to (T, D): what each token gets back from its group."""
        return segment_broadcast(x_GD, spans)


def register_pooling(name: str) -> Callable[[type[Pooling]], type[Pooling]]:
    """Adds a pooling to the registry, so that ``pool: name`` finds it.

    Raises:
        ValueError: the name is taken.
    """

    def add(pooling: type[Pooling]) -> type[Pooling]:
        if name in POOLINGS:
            raise ValueError(f"a pooling {name!r} is registered already: {POOLINGS[name].__qualname__}")
        POOLINGS[name] = pooling
        return pooling

    return add
