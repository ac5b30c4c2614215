"""Smoothing of what comes back from learned groups (H-Net, arXiv 2507.07955, equation 5).

A group whose boundary is unsure says less, and the one before it goes on: z̄ = p z + (1 - p) z̄ of the group before,
with p the probability of the boundary that the group starts at. So the choice of boundaries has a gradient of its own.

Shapes: G groups, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .spans import Spans


def smooth(z_GD: Tensor, prob_G: Tensor, samples: Spans) -> Tensor:
    """Each group mixed with those before it in its sample; the first one of a sample stays as it is.

    Args:
        z_GD: what comes back from each group.
        prob_G: probability of the boundary that each starts at.
        samples: the samples, counted in groups.
    """
    stays_G1 = torch.where(samples.positions == 0, 0.0, 1 - prob_G)[:, None]
    own_GD = (1 - stays_G1) * z_GD
    found_GD: Tensor = _Recurrence.apply(own_GD, stays_G1.to(own_GD.dtype), samples.max_seqlen)
    return found_GD.to(z_GD.dtype)


def smooth_step(z_AD: Tensor, prob_A: Tensor, before_AD: Tensor) -> Tensor:
    """One step of :func:`smooth`: new groups with what came back before them.

    Args:
        z_AD: what comes back from each new group.
        prob_A: probability of the boundary that each starts at; 1 for the first of a sample.
        before_AD: the smoothed vectors of the groups before them.
    """
    prob_A1 = prob_A[:, None]
    return (prob_A1 * z_AD + (1 - prob_A1) * before_AD).to(z_AD.dtype)


class _Recurrence(torch.autograd.Function):
    """y of g = own of g + stays of g * y of g - 1, all rows at once.

    The gradient is the same recurrence backwards, so that only what came out is kept, not every step of the scan. As it
    is the function itself, it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(own_GD: Tensor, stays_G1: Tensor, longest: int) -> Tensor:
        # What is saved must not be the input itself.
        return _scan(own_GD, stays_G1, longest) if longest > 1 else own_GD.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, stays_G1, ctx.longest = inputs
        ctx.save_for_backward(output, stays_G1)
        ctx.save_for_forward(output, stays_G1)

    @staticmethod
    def backward(ctx: Any, grad_GD: Tensor) -> tuple[Tensor, Tensor, None]:
        y_GD, stays_G1 = ctx.saved_tensors
        # What a row gives to the next one comes back from there; the first rows of samples take nothing.
        back_GD: Tensor = _Recurrence.apply(grad_GD.flip(0), stays_G1.roll(-1, 0).flip(0), ctx.longest)
        own_GD = back_GD.flip(0)
        return own_GD, (own_GD * y_GD.roll(1, 0)).sum(-1, keepdim=True), None

    @staticmethod
    def jvp(ctx: Any, own_GD: Tensor, stays_G1: Tensor, longest: None) -> Tensor:
        y_GD, kept_G1 = ctx.saved_tensors
        return _scan(own_GD + stays_G1 * y_GD.roll(1, 0), kept_G1, ctx.longest)


def _scan(own_GD: Tensor, stays_G1: Tensor, longest: int) -> Tensor:
    """The recurrence by doubling: after each step a row holds what twice as many rows gave it.

    Args:
        own_GD: what each row adds.
        stays_G1: its share of the row before it; 0 where a run starts, and in the first row.
        longest: rows of the longest run.
    """
    reach = 1
    while reach < longest:
        own_GD = torch.cat([own_GD[:reach], own_GD[reach:] + stays_G1[reach:] * own_GD[:-reach]])
        stays_G1 = torch.cat([stays_G1[:reach], stays_G1[reach:] * stays_G1[:-reach]])
        reach *= 2
    return own_GD
