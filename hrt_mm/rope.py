"""Rotary positions on any number of axes, from coordinates.

The pairs of a head are shared out over the axes, each axis with its own run of frequencies (axial RoPE,
arXiv 2104.09864 and 2403.13298). Only queries and keys are rotated, never what is pooled: a mean of rotated keys
cancels them.

Shapes: T tokens, H heads, D head width, F = D/2 pairs, C axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ConfigError

Tables = tuple[Tensor, Tensor]
"""Cosines and sines, (T, 1, F) each."""


def frequencies(head_dim: int, axes: int, theta: float) -> tuple[Tensor, Tensor]:
    """The frequency of each pair and the axis that it turns with.

    Args:
        head_dim: width of a head, even.
        axes: axes of the coordinates.
        theta: base of the frequencies.

    Returns:
        (F,) radians a step, and (F,) axis indices.

    Raises:
        ConfigError: fewer pairs than axes.
    """
    pairs = head_dim // 2
    if pairs < axes:
        raise ConfigError(f"a head of width {head_dim} has {pairs} rotary pairs for {axes} axes; widen the heads")
    sizes = [pairs // axes + (axis < pairs % axes) for axis in range(axes)]
    turns = [theta ** -(torch.arange(size, dtype=torch.float64) / size) for size in sizes]
    owners = [torch.full((size,), axis) for axis, size in enumerate(sizes)]
    return torch.cat(turns).float(), torch.cat(owners)


def tables(coords_TC: Tensor, steps_C: Tensor, turns_F: Tensor, owners_F: Tensor) -> Tables:
    """Cosines and sines of each token's angles.

    Args:
        coords_TC: positions, in level-0 steps.
        steps_C: level-0 steps that make one step here.
        turns_F: radians a step, from :func:`frequencies`.
        owners_F: axis of each pair.
    """
    with torch.autocast(coords_TC.device.type, enabled=False):
        angles_TF = (coords_TC.float() / steps_C)[:, owners_F] * turns_F
        return angles_TF.cos()[:, None], angles_TF.sin()[:, None]


def rotate(x_THD: Tensor, rope: Tables) -> Tensor:
    """Turns each pair (d, d + F) of every head by its token's angle."""
    cos, sin = rope
    first, second = x_THD.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
