"""Root-mean-square norm without weights (arXiv 1910.07467): each use is followed by a linear map or a gain.

Shapes: last axis D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPS = 1e-6


def rms_norm(x: Tensor) -> Tensor:
    """``x`` over the root of the mean of its squares along the last axis, (..., D)."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        normed: Tensor = _CpuRmsNorm.apply(x)
        return normed
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class _CpuRmsNorm(torch.autograd.Function):
    """On a CPU PyTorch chains elementwise passes; with gradients this takes a third of their time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            # It would take the squares of float32 rows in half precision.
            with torch.autocast("cpu", enabled=False):
                normed, inverse = _normed(x)
        else:
            normed, inverse = _normed(x)
        ctx.save_for_backward(normed, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        normed, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, normed)[..., None] / normed.shape[-1]
        return torch.addcmul(grad, normed, along, value=-1).mul_(inverse)


def _normed(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x if x.dtype == torch.float64 else x.float()
    inverse = (torch.linalg.vecdot(wide, wide) / x.shape[-1] + EPS).rsqrt()[..., None]
    return (wide * inverse).to(x.dtype), inverse.to(x.dtype)
