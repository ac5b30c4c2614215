"""Root-mean-square norm without weights (arXiv 1910.07467): each use is followed by a linear map or a gain.

Shapes: last axis D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def rms_norm(x: Tensor) -> Tensor:
    """``x`` over the root of the mean of its squares along the last axis, (..., D).

    It can be differentiated any number of times, in either mode, and under the transforms of ``torch.func``.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x, x.shape[-1:], eps=EPS)
    if torch._C._are_functorch_transforms_active() or not (x.requires_grad and torch.is_grad_enabled()):
        return _normed(x)[0]
    normed: Tensor = _CpuRmsNorm.apply(x)[0]
    return normed


class _CpuRmsNorm(torch.autograd.Function):
    """On a CPU PyTorch chains elementwise passes; with gradients this takes a third of their time.

    The inverse root is an output too, so that second derivatives go through it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        normed, inverse = _normed(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(normed, inverse)
        ctx.save_for_forward(normed, inverse)
        return normed, inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_inverse: Tensor | None) -> Tensor | None:
        normed, inverse = ctx.saved_tensors
        found = None
        if grad is not None:
            along = torch.linalg.vecdot(grad, normed)[..., None] / normed.shape[-1]
            found = torch.addcmul(grad, normed, along, value=-1).mul_(inverse)
        if grad_inverse is None:
            return found
        # Second derivatives alone come here.
        more = -grad_inverse * normed * inverse.square() / normed.shape[-1]
        return more if found is None else found + more

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        normed, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(tangent, normed)[..., None] / normed.shape[-1]
        return (tangent - normed * along) * inverse, -along * inverse.square()


def _normed(x: Tensor) -> tuple[Tensor, Tensor]:
    """The normed rows, and the inverse of each row's root mean square."""
    if torch.is_autocast_enabled("cpu"):
        # It would take the squares of float32 rows in half precision.
        with torch.autocast("cpu", enabled=False):
            return _wide(x)
    return _wide(x)


def _wide(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x if x.dtype == torch.float64 else x.float()
    inverse = (torch.linalg.vecdot(wide, wide) / x.shape[-1] + EPS).rsqrt()[..., None]
    return (wide * inverse).to(x.dtype), inverse.to(x.dtype)
