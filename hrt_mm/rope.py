"""Rotary positions on any number of axes, from coordinates.

The pairs of a head are shared out over the axes, each axis with its own run of frequencies (axial RoPE,
arXiv 2104.09864 and 2403.13298). Only queries and keys are rotated, never what is pooled: a mean of rotated keys
cancels them.

Shapes: T tokens, H heads, D head width, F = D/2 pairs, C axes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ConfigError


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


def phases(coords_TC: Tensor, steps_C: Tensor, turns_F: Tensor, owners_F: Tensor) -> Tensor:
    """The turn of each pair of each token, (T, 1, F) complex numbers of size 1.

    Args:
        coords_TC: positions, in level-0 steps. In float64 they are exact at any distance; float32 loses a hundredth of
            a turn after a million steps, which a stream has after hours.
        steps_C: level-0 steps that make one step here.
        turns_F: radians a step, from :func:`frequencies`.
        owners_F: axis of each pair.
    """
    far = coords_TC.dtype == torch.float64
    places_TC = (coords_TC if far else coords_TC.float()) / steps_C
    # On one axis the columns broadcast; taking them by index would cost as much as the angles.
    angles_TF = (places_TC if places_TC.shape[1] == 1 else places_TC[:, owners_F]) * turns_F
    if far:
        angles_TF = (angles_TF % math.tau).to(turns_F.dtype)
    return torch.polar(torch.ones_like(angles_TF), angles_TF)[:, None]


def rotate(x_THD: Tensor, turn_T1F: Tensor) -> Tensor:
    """Turns each pair (2f, 2f + 1) of every head by its token's angle.

    Args:
        x_THD: float32 or float64.
        turn_T1F: from :func:`phases`.
    """
    if torch.compiler.is_compiling():
        return _rotate_real(x_THD, turn_T1F)
    # One complex product is a sixth of the time of the real form on a CPU.
    turned = torch.view_as_complex(x_THD.unflatten(-1, (-1, 2))) * turn_T1F
    return torch.view_as_real(turned).flatten(-2)


def _rotate_real(x_THD: Tensor, turn_T1F: Tensor) -> Tensor:
    """The same in real numbers, for compilers that know no complex ones."""
    cos, sin = torch.view_as_real(turn_T1F).unbind(-1)
    first, second = x_THD.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
