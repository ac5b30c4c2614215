"""The flat control of a hierarchy: a single level with the same blocks, depth and number of parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..core.errors import ConfigError
from ..core.hierarchy import Hierarchy
from ..core.initial_weights import weights_replaced
from ..core.levels import HierarchyConfig, Level


def num_parameters(config: HierarchyConfig, axes: int = 1) -> int:
    """Number of parameters of a hierarchy, without allocating them."""
    with torch.device("meta"), weights_replaced():
        return sum(parameter.numel() for parameter in Hierarchy(config, axes).parameters())


def flat_control(config: HierarchyConfig, axes: int = 1, *, tolerance: float = 0.01) -> HierarchyConfig:
    """A transformer of one level with the hierarchy's blocks, depth and parameters.

    The width is a multiple of the first level's head width, and the feed-forward layers make up the rest. If no such
    width fits, as with small hierarchies, another head width is chosen.

    Args:
        config: the hierarchy.
        axes: axes of its coordinates.
        tolerance: maximum relative difference in parameters.

    Returns:
        The configuration of the control, with global attention.

    Raises:
        ConfigError: no width comes within the tolerance.
    """
    depth = sum(level.depth for level in config.levels)
    if config.top_down:
        depth += sum(level.decoder_depth for level in config.levels[:-1])
    if depth == 0:
        raise ConfigError("the hierarchy has no blocks; give a level a depth of 1 or more")
    target = num_parameters(config, axes)
    fine = config.levels[0]
    for dim, heads in _widths(target / depth, fine):
        # What attention leaves of a block's parameters; a multiple of 8, which suits matrix kernels.
        hidden = round((target / depth - 4 * dim * dim - heads) / (3 * dim) / 8) * 8
        if hidden < 8 or abs(depth * (4 * dim * dim + 3 * dim * hidden + heads) / target - 1) > tolerance:
            continue
        flat = HierarchyConfig(
            levels=(Level(name=fine.name, dim=dim, depth=depth, heads=heads, mlp_ratio=hidden / dim),),
            causal=config.causal,
            rope_theta=config.rope_theta,
            drop_path=config.drop_path,
            dropout=config.dropout,
            activation_checkpointing=config.activation_checkpointing,
            backend=config.backend,
        )
        assert abs(num_parameters(flat, axes) / target - 1) <= tolerance
        return flat
    raise ConfigError(
        f"no flat transformer of depth {depth} and head width near {fine.head_dim} has {target} parameters within "
        f"{tolerance:.0%}"
    )


def _widths(share: float, fine: Level) -> Iterator[tuple[int, int]]:
    """Candidate widths and heads for a block of ``share`` parameters, most similar to ``fine`` first."""
    # A block has 4 D^2 parameters in attention and 3 ratio D^2 in the feed-forward.
    ideal = (share / (4 + 3 * fine.mlp_ratio)) ** 0.5
    head = fine.head_dim
    nearest = max(1, round(ideal / head))
    for heads in (nearest, nearest - 1, nearest + 1, nearest + 2):
        if heads > 0:
            yield heads * head, heads
    for dim in sorted(range(2, 2 * round(ideal) + 2, 2), key=lambda dim: abs(dim - ideal)):
        counts = [count for count in range(1, dim // 2 + 1) if dim % (2 * count) == 0]
        heads = min(counts, key=lambda count: abs(dim // count - head))
        if head <= 2 * (dim // heads) <= 4 * head:
            yield dim, heads
