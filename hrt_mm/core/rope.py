"""Rotary position embedding over any number of axes (RoPE, arXiv 2104.09864; axial RoPE, arXiv 2403.13298).

The frequency pairs of a head are divided among the axes. Only queries and keys are rotated, never features that are
pooled, because averaging rotated vectors cancels them.

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

FLOAT32_RANGE = 4096.0
"""Angles of positions from here on are reduced in float64. Below, float32 is accurate to 2.4e-4 rad."""


def frequencies(head_dim: int, axes: int, theta: float) -> tuple[Tensor, Tensor]:
    """Inverse frequencies of the pairs of a head, and the axis of each pair.

    Args:
        head_dim: width of a head, even.
        axes: number of coordinate axes.
        theta: base of the frequencies.

    Returns:
        (F,) inverse frequencies in radians per unit, and (F,) axis indices, on the CPU.

    Raises:
        ConfigError: fewer pairs than axes.
    """
    pairs = head_dim // 2
    if pairs < axes:
        raise ConfigError(f"a head of width {head_dim} has {pairs} rotary pairs for {axes} axes; widen the heads")
    # Pairs that do not divide evenly go to the first axes.
    sizes = [pairs // axes + (axis < pairs % axes) for axis in range(axes)]
    # In float64 and on the CPU, whatever the default device: every device then has the same tables, and a model that is
    # built on the meta device has real ones.
    inv_freq = [theta ** -(torch.arange(size, dtype=torch.float64, device="cpu") / size) for size in sizes]
    axis_index = [torch.full((size,), axis, device="cpu") for axis, size in enumerate(sizes)]
    return torch.cat(inv_freq).float(), torch.cat(axis_index)


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of a head. Frequencies are computed per device and dtype on first use.

    They are not buffers, so that moving, casting or loading a module cannot round or drop them.

    Args:
        head_dim: width of a head, even.
        axes: number of coordinate axes.
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
        """The result of :func:`frequencies` on the device of ``like``; in float64 if ``like`` is."""
        return _tables(self, like.device, like.dtype == torch.float64)

    def rotations(self, coords_TC: Tensor, unit_C: Tensor, like: Tensor) -> Tensor:
        """The result of :func:`rotations`, (T, 1, F): complex128 if ``like`` is float64, else complex64."""
        return rotations(coords_TC, unit_C, *self.tables(like))


@lru_cache(maxsize=256)
def _tables(rotary: Rotary, device: torch.device, double: bool) -> tuple[Tensor, Tensor]:
    # Evaluation may run before training, and autograd cannot save tensors made in inference mode.
    with torch.inference_mode(False):
        inv_freq_F, axis_index_F = frequencies(rotary.head_dim, rotary.axes, rotary.theta)
        return inv_freq_F.to(device, torch.float64 if double else torch.float32), axis_index_F.to(device)


def rotations(coords_TC: Tensor, unit_C: Tensor, inv_freq_F: Tensor, axis_index_F: Tensor) -> Tensor:
    """Unit complex rotations, (T, 1, F).

    In exported graphs, which have no complex numbers, they are cosines and sines, (T, 1, F, 2).

    In float32 an angle is off by a hundredth of a turn after a million units, so angles of positions from
    :data:`FLOAT32_RANGE` on are reduced in float64. This is decided for each position on its own.

    Args:
        coords_TC: positions in level-0 units. Must be float64 if any is :data:`FLOAT32_RANGE` or more; on a CPU,
            whole numbers may stay float32.
        unit_C: level-0 units per unit of this level.
        inv_freq_F: inverse frequencies, from :func:`frequencies`.
        axis_index_F: axis of each pair.
    """
    if inv_freq_F.dtype == torch.float64:
        angles_TF = _angles(coords_TC.double() / unit_C.double(), inv_freq_F, axis_index_F)
    else:
        angles_TF = _angles(coords_TC.float() / unit_C, inv_freq_F, axis_index_F)
        if _may_be_far(coords_TC):
            far_TF = _angles(coords_TC.double() / unit_C.double(), inv_freq_F.double(), axis_index_F) % math.tau
            is_far_TC = coords_TC.abs() >= FLOAT32_RANGE
            is_far_TF = is_far_TC if is_far_TC.shape[1] == 1 else is_far_TC[:, axis_index_F]
            angles_TF = torch.where(is_far_TF, far_TF.to(angles_TF.dtype), angles_TF)
    # The axis of size 1 broadcasts over the heads.
    if torch.compiler.is_exporting():
        return torch.stack([angles_TF.cos(), angles_TF.sin()], -1)[:, None]
    return torch.polar(torch.ones_like(angles_TF), angles_TF)[:, None]


def _angles(coords_TC: Tensor, inv_freq_F: Tensor, axis_index_F: Tensor) -> Tensor:
    # A single column broadcasts. Indexing it would take as long as the product itself.
    return (coords_TC if coords_TC.shape[1] == 1 else coords_TC[:, axis_index_F]) * inv_freq_F


@on_host
def _may_be_far(coords_TC: Tensor) -> bool:
    """Whether a position may be out of float32 range. On a device the dtype alone tells, to avoid a synchronization."""
    if coords_TC.device.type != "cpu" or torch.compiler.is_exporting() or not coords_TC.numel():
        return coords_TC.dtype == torch.float64
    return bool(coords_TC.abs().amax() >= FLOAT32_RANGE)


def rotate(x_THD: Tensor, rotations_T1F: Tensor) -> Tensor:
    """Rotates the feature pairs (2f, 2f + 1) of every head.

    Args:
        x_THD: float32 or float64.
        rotations_T1F: from :func:`rotations`.
    """
    if torch.compiler.is_compiling():
        return _rotate_real(x_THD, rotations_T1F)
    # On a CPU one complex product takes a sixth of the time of the real form.
    rotated = torch.view_as_complex(x_THD.unflatten(-1, (-1, 2))) * rotations_T1F
    return torch.view_as_real(rotated).flatten(-2)


def _rotate_real(x_THD: Tensor, rotations_T1F: Tensor) -> Tensor:
    """:func:`rotate` in real arithmetic, for compilers without complex support."""
    pairs = torch.view_as_real(rotations_T1F) if rotations_T1F.is_complex() else rotations_T1F
    cos, sin = pairs.unbind(-1)
    first, second = x_THD.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
