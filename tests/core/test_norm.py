"""The norm and its hand-written gradient against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from hrt_mm.norm import EPS, rms_norm


@pytest.mark.parametrize("shape", [(5, 8), (3, 2, 4), (1, 1), (0, 6)], ids=str)
def test_forward_and_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)
    want = F.rms_norm(x, x.shape[-1:], eps=EPS)
    torch.testing.assert_close(rms_norm(x), want)
    (expected,) = torch.autograd.grad((want * weight).sum(), x)
    (got,) = torch.autograd.grad((rms_norm(x) * weight).sum(), x)
    torch.testing.assert_close(got, expected)
    if x.numel():
        gradcheck(rms_norm, x)


def test_an_expanded_gradient_and_a_slice() -> None:
    x = torch.randn(4, 12, requires_grad=True)
    rms_norm(x[:, ::2]).sum().backward()
    got = x.grad
    x.grad = None
    F.rms_norm(x[:, ::2], (6,), eps=EPS).sum().backward()
    torch.testing.assert_close(got, x.grad)


def test_zeros_give_zeros_and_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_norm(x)
    y.sum().backward()
    assert y.eq(0).all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_autocast_leaves_float32_rows_in_float32() -> None:
    x = torch.randn(64, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = rms_norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, rms_norm(x), atol=0, rtol=0)


def test_half_precision_sums_in_float32() -> None:
    x = (torch.randn(64, 512) * 30).to(torch.bfloat16)
    want = F.rms_norm(x.double(), (512,), eps=EPS)
    got = rms_norm(x)
    assert got.dtype == torch.bfloat16
    # One rounding of the result is 2^-9; a scale in bfloat16 adds its own.
    assert ((got.double() - want).abs() / want.abs().clamp(min=1e-3)).max() < 2**-8
