"""Outputs that must be equal before anything is timed: a fast wrong answer is no result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class CheckFailed(RuntimeError):
    """Outputs that must be equal are not. The benchmark reports nothing."""


def difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative difference over pairs of tensors: length of the difference over length of the expected."""
    shares = [
        float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm().clamp(min=1e-30))
        for a, b in zip(got, expected, strict=True)
    ]
    return max(shares)


def must_equal(name: str, got: Sequence[Tensor], expected: Sequence[Tensor], bound: float) -> float:
    """The largest relative difference, where it is under the bound.

    Raises:
        CheckFailed: it is not, or a shape or value is off.
    """
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            raise CheckFailed(f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    if all(not bool(b.any()) for b in expected):
        raise CheckFailed(f"{name}: the expected output is all zeros, so equality says nothing")
    error = difference(got, expected)
    # Written so that NaN fails as well.
    if not error <= bound:
        raise CheckFailed(f"{name}: outputs differ by {error:.2e}, more than {bound:.0e}")
    return error


def bound_of(dtype: torch.dtype) -> float:
    """How far a whole model may be from the same model in float64."""
    return 1e-4 if dtype == torch.float32 else 5e-2
