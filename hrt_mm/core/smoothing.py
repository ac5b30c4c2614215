"""Smoothing of the unpooled stream of learned groups (H-Net, arXiv 2507.07955, eq. 5).

An exponential moving average gated by the boundary probability p of each group, z̄_g = p_g z_g + (1 - p_g) z̄_(g-1),
carries the groups before an uncertain boundary over it, and gives the boundaries a gradient.

Shapes: G groups, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .spans import Spans


def smooth(z_GD: Tensor, prob_G: Tensor, samples: Spans) -> Tensor:
    """Smooths the groups of each sample. The first group of a sample is unchanged.

    Args:
        z_GD: unpooled groups.
        prob_G: probability of the boundary at which each group starts.
        samples: the samples, in units of groups.
    """
    decay_G1 = torch.where(samples.positions == 0, 0.0, 1 - prob_G)[:, None]
    # 1 - decay is the probability, and 1 in first rows.
    input_GD = (1 - decay_G1) * z_GD
    smoothed_GD: Tensor = _LinearRecurrence.apply(input_GD, decay_G1.to(input_GD.dtype), samples.max_seqlen)
    return smoothed_GD.to(z_GD.dtype)


class _LinearRecurrence(torch.autograd.Function):
    """y_g = input_g + decay_g * y_(g-1), computed for all rows in parallel.

    The gradient is the same recurrence in reverse, so only the output is saved, not the steps of the scan, and the
    function is differentiable again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input_GD: Tensor, decay_G1: Tensor, max_length: int) -> Tensor:
        # An input must not be returned as the saved output, hence the clone.
        return _scan(input_GD, decay_G1, max_length) if max_length > 1 else input_GD.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, decay_G1, ctx.max_length = inputs
        ctx.save_for_backward(output, decay_G1)
        ctx.save_for_forward(output, decay_G1)

    @staticmethod
    def backward(ctx: Any, grad_GD: Tensor) -> tuple[Tensor, Tensor, None]:
        y_GD, decay_G1 = ctx.saved_tensors
        # d_g = grad_g + decay_(g+1) * d_(g+1): rolling by one aligns each decay with the row that it leaves, and
        # flipping reverses time. The decay of first rows is 0, so nothing crosses samples or wraps around.
        reversed_GD: Tensor = _LinearRecurrence.apply(grad_GD.flip(0), decay_G1.roll(-1, 0).flip(0), ctx.max_length)
        grad_input_GD = reversed_GD.flip(0)
        return grad_input_GD, (grad_input_GD * y_GD.roll(1, 0)).sum(-1, keepdim=True), None

    @staticmethod
    def jvp(ctx: Any, input_tangent_GD: Tensor, decay_tangent_G1: Tensor, max_length: None) -> Tensor:
        y_GD, decay_G1 = ctx.saved_tensors
        return _scan(input_tangent_GD + decay_tangent_G1 * y_GD.roll(1, 0), decay_G1, ctx.max_length)


def _scan(input_GD: Tensor, decay_G1: Tensor, max_length: int) -> Tensor:
    """The recurrence by recursive doubling (Hillis and Steele, 1986).

    Args:
        input_GD: input of each row.
        decay_G1: weight of the row before; 0 in the first row of each run.
        max_length: rows of the longest run.
    """
    # After each iteration a row holds the contributions of the last ``distance`` rows, and its decay their product.
    # log2(max_length) rounds over all rows at once, instead of a loop over rows.
    distance = 1
    while distance < max_length:
        input_GD = torch.cat([input_GD[:distance], input_GD[distance:] + decay_G1[distance:] * input_GD[:-distance]])
        decay_G1 = torch.cat([decay_G1[:distance], decay_G1[distance:] * decay_G1[:-distance]])
        distance *= 2
    return input_GD
