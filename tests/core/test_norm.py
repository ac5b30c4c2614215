"""The norm and its hand-written gradient against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, func
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from hrt_mm.core.norm import EPS, rms_norm

# PyTorch compiles its forward mode with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*jit.script.*:FutureWarning")


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


def torch_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


def test_second_and_third_derivatives_are_exact() -> None:
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(rms_norm, x, check_forward_ad=True)
    assert gradgradcheck(rms_norm, x)

    def third(norm: Callable[[Tensor], Tensor]) -> Tensor:
        value = (norm(x) * torch.arange(6)).sum().sin()
        for _ in range(2):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.square().sum()
        (result,) = torch.autograd.grad(value, x)
        return result

    torch.testing.assert_close(third(rms_norm), third(torch_norm))


def test_a_penalty_on_the_gradient_of_a_linear_score_reaches_the_weights() -> None:
    """The gradient that comes back to the norm is a constant here, which hides that it was not differentiated."""
    result = []
    for norm in (rms_norm, torch_norm):
        torch.manual_seed(0)
        x, weight = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, 6), (6,)))
        (gradient,) = torch.autograd.grad((norm(x * weight) * torch.arange(6)).sum(), x, create_graph=True)
        gradient.square().sum().backward()
        result.append(weight.grad)
    torch.testing.assert_close(*result)


Transformed = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
TRANSFORMS: dict[str, Transformed] = {
    "grad": lambda norm, x: func.grad(lambda y: (norm(y) * x).sum().sin())(x),
    "hessian": lambda norm, x: func.hessian(lambda y: (norm(y) * x).sum().sin())(x),
    "jacrev of jacrev": lambda norm, x: func.jacrev(func.jacrev(lambda y: norm(y * x).square().sum()))(x),
    "jacfwd of jacfwd": lambda norm, x: func.jacfwd(func.jacfwd(lambda y: norm(y * x).square().sum()))(x),
    "vmap": lambda norm, x: func.vmap(norm, in_dims=1)(x),
    "vmap of grad": lambda norm, x: func.vmap(func.grad(lambda y: (norm(y) * x[0]).sum()))(x),
    "jvp": lambda norm, x: func.jvp(norm, (x,), (x.sin(),))[1],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_torch_func(name: str) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(TRANSFORMS[name](rms_norm, x), TRANSFORMS[name](torch_norm, x))


@pytest.mark.parametrize("needs_grad", [False, True])
def test_forward_mode(needs_grad: bool) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=needs_grad)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.detach().sin())
        ours, theirs = (forward_ad.unpack_dual(norm(dual)).tangent for norm in (rms_norm, torch_norm))
        torch.testing.assert_close(ours, theirs)
