"""The flat control of a hierarchy: one level, the same blocks, as deep, with as many parameters."""

from __future__ import annotations

import torch

from .errors import ConfigError
from .hierarchy import Hierarchy
from .levels import HierarchyConfig, Level


def num_parameters(config: HierarchyConfig, axes: int = 1) -> int:
    """Parameters of a hierarchy, counted without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Hierarchy(config, axes).parameters())


def flat_control(config: HierarchyConfig, axes: int = 1, *, tolerance: float = 0.01) -> HierarchyConfig:
    """A transformer of one level with the hierarchy's blocks, depth and parameters.

    The width comes first, in whole heads of the first level's head width; the feed-forward makes up the rest.

    Args:
        config: the hierarchy.
        axes: axes of its coordinates.
        tolerance: largest share by which the parameters may differ.

    Returns:
        The configuration of the control. It attends globally.

    Raises:
        ConfigError: no width comes within the tolerance.
    """
    depth = sum(level.depth for level in config.levels)
    if config.top_down:
        depth += sum(level.decoder_depth for level in config.levels[:-1])
    if depth == 0:
        raise ConfigError("the hierarchy has no blocks; give a level a depth of 1 or more")
    target = num_parameters(config, axes)
    head = config.levels[0].head_dim
    ratio = config.levels[0].mlp_ratio
    share = target / depth
    # A block has 4 D^2 parameters in attention and 3 ratio D^2 in the feed-forward.
    heads = max(1, round((share / (4 + 3 * ratio)) ** 0.5 / head))
    for count in (heads, heads - 1, heads + 1, heads + 2):
        if count < 1:
            continue
        dim = count * head
        hidden = round((share - 4 * dim * dim - count) / (3 * dim) / 8) * 8
        if hidden < 8:
            continue
        level = Level(name=config.levels[0].name, dim=dim, depth=depth, heads=count, mlp_ratio=hidden / dim)
        flat = HierarchyConfig(
            levels=(level,),
            causal=config.causal,
            rope_theta=config.rope_theta,
            drop_path=config.drop_path,
            activation_checkpointing=config.activation_checkpointing,
            backend=config.backend,
        )
        if abs(num_parameters(flat, axes) / target - 1) <= tolerance:
            return flat
    raise ConfigError(
        f"no flat transformer of depth {depth} and head width {head} has {target} parameters within {tolerance:.0%}"
    )
