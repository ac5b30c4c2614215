"""What is timed: an inference call or a training step of a model, made the same way for every contender."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .memory import Prepared

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions by name; other than float32 is autocast."""
MODES = ("inference", "training")


def prepared(forward: Callable[[], Tensor], module: nn.Module, held_bytes: int, mode: str, dtype: str) -> Prepared:
    """A model's call.

    An inference call is the forward pass. A training step is the forward pass, the backward pass of the mean square
    of the output, and an AdamW update.

    Args:
        forward: the model on its input.
        module: whose parameters are trained.
        held_bytes: bytes of the input.
        mode: one of ``MODES``.
        dtype: one of ``DTYPES``.
    """
    weights = sum(parameter.nbytes for parameter in module.parameters())
    if mode == "inference":
        module.eval()
        return Prepared(lambda: _inference(forward, module, dtype), held_bytes + weights)
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    _make_moments(module, optimizer)
    return Prepared(lambda: _training(forward, module, optimizer, dtype), held_bytes + 3 * weights)


def _autocast(module: nn.Module, dtype: str) -> torch.autocast:
    device = next(module.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=dtype != "float32")


def _inference(forward: Callable[[], Tensor], module: nn.Module, dtype: str) -> None:
    with torch.inference_mode(), _autocast(module, dtype):
        forward()


def _training(forward: Callable[[], Tensor], module: nn.Module, optimizer: torch.optim.Optimizer, dtype: str) -> None:
    with _autocast(module, dtype):
        out = forward()
    out.float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _make_moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step on zero gradients, so that AdamW's moments are there before the first call, as in all but one."""
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
