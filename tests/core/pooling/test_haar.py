"""The wavelet: orthonormal, exactly invertible, for groups of any length."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from hrt_mm.core.errors import UserError
from hrt_mm.core.pooling import HaarPooling, PoolingGroups, PoolingSpec, decompose, reconstruct
from hrt_mm.core.spans import Spans

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", range(1, 34))
def test_one_group_comes_back(length: int, dtype: torch.dtype) -> None:
    spans = Spans.from_lengths([length])
    x = torch.randn(length, 5, dtype=dtype) * 3
    low, details = decompose(x, spans)
    assert low.shape == (1, 5)
    assert details.shape == (length - 1, 5)
    assert (reconstruct(low, details, spans) - x).abs().max() <= TOLERANCE[dtype]
    torch.testing.assert_close(low.square().sum() + details.square().sum(), x.square().sum())
    torch.testing.assert_close(low[0], x.sum(0) / math.sqrt(length))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_ragged_groups_come_back(dtype: torch.dtype) -> None:
    spans = Spans.from_lengths([*range(1, 34), 100, 1, 1, 64])
    x = torch.randn(spans.total, 4, dtype=dtype)
    low, details = decompose(x, spans)
    assert len(low) + len(details) == len(x)
    assert (reconstruct(low, details, spans) - x).abs().max() <= TOLERANCE[dtype]
    groups = PoolingGroups(spans, lambda: spans.positions, 4, False, torch.zeros(len(x), 1))
    torch.testing.assert_close(HaarPooling(PoolingSpec(4, 1, 4))(x, groups), low)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 13])
def test_the_transform_is_a_rotation(length: int) -> None:
    spans = Spans.from_lengths([length])
    eye = torch.eye(length, dtype=torch.float64)
    matrix = torch.cat(decompose(eye, spans))
    torch.testing.assert_close(matrix @ matrix.T, eye)


def test_a_constant_group_has_no_details() -> None:
    spans = Spans.from_lengths([7, 1, 12])
    x = torch.cat([torch.full((length, 2), float(index)) for index, length in enumerate([7, 1, 12])])
    assert decompose(x, spans)[1].abs().max() < 1e-6


def test_without_details_each_group_becomes_its_mean() -> None:
    spans = Spans.from_lengths([7, 4, 1])
    x = torch.randn(12, 3, dtype=torch.float64)
    low, details = decompose(x, spans)
    blurred = reconstruct(low, torch.zeros_like(details), spans)
    for part, rows in zip(spans.split(blurred), spans.split(x), strict=True):
        torch.testing.assert_close(part, rows.mean(0, keepdim=True).expand_as(part))


def test_gradients_both_ways() -> None:
    spans = Spans.from_lengths([5, 1, 3])
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: decompose(x, spans), x)
    low, details = (part.detach().requires_grad_() for part in decompose(x, spans))
    assert gradcheck(lambda low, details: reconstruct(low, details, spans), (low, details))


def test_misfits_are_named() -> None:
    with pytest.raises(UserError, match="at least one token in every group; drop the empty groups"):
        decompose(torch.zeros(3, 2), Spans.from_lengths([3, 0]))
    with pytest.raises(UserError, match="2 groups of 5 tokens have 2 lows and 3 details, got 2 and 2"):
        reconstruct(torch.zeros(2, 1), torch.zeros(2, 1), Spans.from_lengths([3, 2]))
