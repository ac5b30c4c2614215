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
        inverse = (torch.linalg.vecdot(x, x) / x.shape[-1] + EPS).rsqrt()[..., None]
        normed = x * inverse
        ctx.save_for_backward(normed, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        normed, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, normed)[..., None] / normed.shape[-1]
        return torch.addcmul(grad, normed, along, value=-1).mul_(inverse)
