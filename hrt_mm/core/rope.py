"""Rotary positions on any number of axes, from coordinates.

The pairs of a head are shared out over the axes, each axis with its own run of frequencies (axial RoPE,
arXiv 2104.09864 and 2403.13298). Only queries and keys are rotated, never what is pooled: a mean of rotated keys
cancels them.

Shapes: T tokens, H heads, D head width, F = D/2 pairs, C axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .errors import ConfigError
from .host import on_host

FAR = 4096.0
"""Steps from a sample's start, from which on angles are reduced in float64: before it float32 is good to 2.4e-4 rad."""


def frequencies(head_dim: int, axes: int, theta: float) -> tuple[Tensor, Tensor]:
    """The frequency of each pair and the axis that it turns with.

    Args:
        head_dim: width of a head, even.
        axes: axes of the coordinates.
        theta: base of the frequencies.

    Returns:
        (F,) radians a step, and (F,) axis indices, on the CPU.

    Raises:
        ConfigError: fewer pairs than axes.
    """
    pairs = head_dim // 2
    if pairs < axes:
        raise ConfigError(f"a head of width {head_dim} has {pairs} rotary pairs for {axes} axes; widen the heads")
    sizes = [pairs // axes + (axis < pairs % axes) for axis in range(axes)]
    turns = [theta ** -(torch.arange(size, dtype=torch.float64, device="cpu") / size) for size in sizes]
    owners = [torch.full((size,), axis, device="cpu") for axis, size in enumerate(sizes)]
    return torch.cat(turns).float(), torch.cat(owners)


@dataclass(frozen=True)
class Rotary:
    """The frequencies of a head, made where they are asked for.

    They are no buffer: nothing that moves, casts, empties or loads a module can lose or round them.

    Args:
        head_dim: width of a head, even.
        axes: axes of the coordinates.
        theta: base of the frequencies.

    Raises:
        ConfigError: fewer pairs than axes.
    """

    head_dim: int
    axes: int
    theta: float

    def __post_init__(self) -> None:
        if self.head_dim // 2 < self.axes:
            frequencies(self.head_dim, self.axes, self.theta)

    @on_host
    def tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """As :func:`frequencies` gives them, on the device of ``like``; in float64 where that is."""
        return _tables(self, like.device, like.dtype == torch.float64)

    def rotations(self, coords_TC: Tensor, unit_C: Tensor, like: Tensor) -> Tensor:
        """As :func:`rotations` gives them, (T, 1, F); complex128 where ``like`` is float64, else complex64."""
        return rotations(coords_TC, unit_C, *self.tables(like))


@lru_cache(maxsize=256)
def _tables(rotary: Rotary, device: torch.device, wide: bool) -> tuple[Tensor, Tensor]:
    # Evaluation may come first and training after it; autograd cannot save an inference tensor.
    with torch.inference_mode(False):
        inv_freq_F, axis_index_F = frequencies(rotary.head_dim, rotary.axes, rotary.theta)
        return inv_freq_F.to(device, torch.float64 if wide else torch.float32), axis_index_F.to(device)


def rotations(coords_TC: Tensor, unit_C: Tensor, inv_freq_F: Tensor, axis_index_F: Tensor) -> Tensor:
    """The turn of each pair of each token, (T, 1, F) complex numbers of size 1.

    In float32 an angle is off by a hundredth of a turn after a million steps, so those of positions from
    :data:`FAR` on are reduced in float64. Which way a position takes does not depend on the others.

    Args:
        coords_TC: positions, in level-0 steps; float64 where some are :data:`FAR` or more. On a CPU float32 serves as
            well, where they are whole numbers.
        unit_C: level-0 steps that make one step here.
        inv_freq_F: radians a step, from :func:`frequencies`.
        axis_index_F: axis of each pair.
    """
    if inv_freq_F.dtype == torch.float64:
        angles_TF = _angles(coords_TC.double() / unit_C.double(), inv_freq_F, axis_index_F)
    else:
        angles_TF = _angles(coords_TC.float() / unit_C, inv_freq_F, axis_index_F)
        if _may_be_far(coords_TC):
            far_TF = _angles(coords_TC.double() / unit_C.double(), inv_freq_F.double(), axis_index_F) % math.tau
            is_far_TC = coords_TC.abs() >= FAR
            is_far_TF = is_far_TC if is_far_TC.shape[1] == 1 else is_far_TC[:, axis_index_F]
            angles_TF = torch.where(is_far_TF, far_TF.to(angles_TF.dtype), angles_TF)
    return torch.polar(torch.ones_like(angles_TF), angles_TF)[:, None]


def _angles(places_TC: Tensor, inv_freq_F: Tensor, axis_index_F: Tensor) -> Tensor:
    # On one axis the columns broadcast; taking them by index would cost as much as the angles.
    return (places_TC if places_TC.shape[1] == 1 else places_TC[:, axis_index_F]) * inv_freq_F


@on_host
def _may_be_far(coords_TC: Tensor) -> bool:
    """Whether a position may lie far out. Reads those on the host; on a device those that may are float64."""
    if coords_TC.dtype == torch.float64 or not coords_TC.numel():
        return coords_TC.numel() > 0
    return coords_TC.device.type == "cpu" and bool(coords_TC.abs().amax() >= FAR)


def rotate(x_THD: Tensor, rotations_T1F: Tensor) -> Tensor:
    """Turns each pair (2f, 2f + 1) of every head by its token's angle.

    Args:
        x_THD: float32 or float64.
        rotations_T1F: from :func:`rotations`.
    """
    if torch.compiler.is_compiling():
        return _rotate_real(x_THD, rotations_T1F)
    # One complex product is a sixth of the time of the real form on a CPU.
    turned = torch.view_as_complex(x_THD.unflatten(-1, (-1, 2))) * rotations_T1F
    return torch.view_as_real(turned).flatten(-2)


def _rotate_real(x_THD: Tensor, rotations_T1F: Tensor) -> Tensor:
    """The same in real numbers, for compilers that know no complex ones."""
    cos, sin = torch.view_as_real(rotations_T1F).unbind(-1)
    first, second = x_THD.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
