"""Reductions over runs against a loop, uniform and ragged, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hrt_mm.core.segments import (
    limit_group_length,
    segment_broadcast,
    segment_first,
    segment_max,
    segment_mean,
    segment_sum,
    shift_right,
)
from hrt_mm.core.spans import Spans

LENGTHS = [[3, 1, 5], [4, 4, 4], [0, 3, 0], [1], [0, 0], [0], [2, 0, 0, 7]]
IDS = ["-".join(map(str, lengths)) for lengths in LENGTHS]
REDUCTIONS: dict[str, tuple[Callable[[Tensor, Spans], Tensor], Callable[[Tensor], Tensor]]] = {
    "sum": (segment_sum, lambda part: part.sum(0)),
    "mean": (segment_mean, lambda part: part.mean(0)),
    "max": (segment_max, lambda part: part.amax(0)),
    "first": (segment_first, lambda part: part[0]),
}


def by_hand(x: Tensor, runs: Spans, one: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([one(part) if len(part) else torch.zeros_like(x[:0].sum(0)) for part in runs.split(x)])


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("inner", [(3,), (2, 2)], ids=["TD", "THD"])
def test_reductions(lengths: list[int], name: str, inner: tuple[int, ...]) -> None:
    reduce, one = REDUCTIONS[name]
    runs = Spans.from_lengths(lengths)
    x = torch.randn(runs.total, *inner, dtype=torch.float64, requires_grad=True)
    got = reduce(x, runs)
    torch.testing.assert_close(got, by_hand(x, runs, one))
    if runs.total:
        gradcheck(lambda x: reduce(x, runs), x)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_uniform_runs_equal_ragged_ones(name: str) -> None:
    reduce, _ = REDUCTIONS[name]
    x = torch.randn(12, 3, requires_grad=True)
    x_too = x.detach().clone().requires_grad_()
    uniform = reduce(x, Spans.from_lengths([4, 4, 4]))
    ragged = reduce(torch.cat([x_too, torch.randn(2, 3)]), Spans.from_lengths([4, 4, 4, 2]))[:3]
    torch.testing.assert_close(uniform, ragged)
    weight = torch.randn(3, 3)
    (uniform * weight).sum().backward()
    (ragged * weight).sum().backward()
    torch.testing.assert_close(x.grad, x_too.grad)


def test_max_shares_the_gradient_of_ties_alike_on_both_paths() -> None:
    x = torch.tensor([[1.0], [1.0], [0.0], [2.0]], requires_grad=True)
    for lengths in ([4], [3, 1], [2, 2]):
        runs = Spans.from_lengths(lengths)
        (grad,) = torch.autograd.grad(segment_max(x, runs).sum(), x)
        for part, rows in zip(runs.split(grad), runs.split(x), strict=True):
            torch.testing.assert_close(part, (rows == rows.amax()).float() / (rows == rows.amax()).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_long_runs_of_half_precision_do_not_stall(dtype: torch.dtype) -> None:
    # Ones added up in bfloat16 stop at 256.
    runs = Spans.from_lengths([3000, 2999])
    x = torch.ones(runs.total, 2, dtype=dtype)
    mean = segment_mean(x, runs)
    assert mean.dtype == dtype
    assert (mean == 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_long_runs_of_half_precision_do_not_stall_on_cuda() -> None:
    runs = Spans.from_lengths([3000, 2999], "cuda")
    assert (segment_mean(torch.ones(runs.total, 2, dtype=torch.bfloat16, device="cuda"), runs) == 1).all()


def test_an_empty_run_takes_nothing_from_its_neighbours() -> None:
    runs = Spans.from_lengths([0, 2, 0])
    x = torch.full((2, 1), float("nan"))
    for reduce, _ in REDUCTIONS.values():
        got = reduce(x, runs)
        assert got[[0, 2]].eq(0).all(), reduce


@pytest.mark.parametrize("lengths", LENGTHS, ids=IDS)
def test_spread(lengths: list[int]) -> None:
    runs = Spans.from_lengths(lengths)
    x = torch.randn(len(lengths), 3, dtype=torch.float64, requires_grad=True)
    want = torch.cat([row.expand(length, 3) for row, length in zip(x, lengths, strict=True)])
    torch.testing.assert_close(segment_broadcast(x, runs), want)
    gradcheck(lambda x: segment_broadcast(x, runs), x)


def test_cap_of_many_random_masks() -> None:
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        starts = torch.rand(30, generator=generator) < 0.15
        starts[0] = True
        longest = 1 + seed % 7
        since, want = 0, []
        for start in starts.tolist():
            since = 0 if start or since + 1 == longest else since + 1
            want.append(since == 0)
        assert limit_group_length(starts, longest).tolist() == want


def test_cap_of_nothing() -> None:
    assert limit_group_length(torch.zeros(0, dtype=torch.bool), 4).shape == (0,)


def test_delayed_stays_within_samples() -> None:
    x = torch.arange(6.0)[:, None]
    samples = Spans.from_lengths([2, 0, 3, 1])
    assert shift_right(x, samples, torch.tensor([-1.0])).flatten().tolist() == [-1, 0, -1, 2, 3, -1]
    assert shift_right(x[:0], Spans.from_lengths([0]), torch.tensor([-1.0])).shape == (0, 1)
