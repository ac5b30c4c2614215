"""Rotary positions: scores depend on differences of coordinates, along every axis."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.rope import frequencies, rotate, rotations


def turn(x_THD: Tensor, coords_TC: Tensor, theta: float = 100.0, step: float = 1.0) -> Tensor:
    axes = coords_TC.shape[1]
    inv_freq_F, axis_index_F = frequencies(x_THD.shape[-1], axes, theta)
    return rotate(x_THD, rotations(coords_TC, torch.full((axes,), step), inv_freq_F, axis_index_F))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_depend_on_differences_alone(axes: int, dtype: torch.dtype) -> None:
    q, k = torch.randn(2, 5, 2, 16, dtype=dtype)
    here, there = torch.rand(2, 5, axes) * 8
    shift = torch.tensor([3.0, -2.0, 7.0])[:axes]
    scores = (turn(q, here) * turn(k, there)).sum(-1)
    shifted = (turn(q, here + shift) * turn(k, there + shift)).sum(-1)
    torch.testing.assert_close(scores, shifted, atol=1e-4, rtol=1e-4)
    for axis in range(axes):
        moved = here.clone()
        moved[:, axis] += 1
        assert ((turn(q, moved) * turn(k, there)).sum(-1) - scores).abs().max() > 1e-2, f"axis {axis} has no effect"


def test_matches_the_definition() -> None:
    x = torch.randn(3, 1, 6, dtype=torch.float64)
    coords = torch.tensor([[0.0, 1.0], [2.0, 0.5], [5.0, 3.0]])
    inv_freq_F, axis_index_F = frequencies(6, 2, 50.0)
    assert axis_index_F.tolist() == [0, 0, 1]
    torch.testing.assert_close(inv_freq_F, torch.tensor([1.0, 50**-0.5, 1.0]))
    got = turn(x, coords, 50.0)
    for token, pair in [(0, 0), (1, 1), (2, 2), (2, 0)]:
        angle = float(coords[token, axis_index_F[pair]] * inv_freq_F[pair])
        first, second = x[token, 0, 2 * pair], x[token, 0, 2 * pair + 1]
        want = [
            first * math.cos(angle) - second * math.sin(angle),
            second * math.cos(angle) + first * math.sin(angle),
        ]
        torch.testing.assert_close(got[token, 0, 2 * pair : 2 * pair + 2], torch.stack(want), atol=1e-6, rtol=1e-6)


def test_keeps_lengths_and_the_origin() -> None:
    x = torch.randn(4, 2, 8)
    coords = torch.arange(4.0)[:, None] * 100
    torch.testing.assert_close(turn(x, coords).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turn(x, coords * 0), x)


def test_a_step_counts_as_one() -> None:
    x, coords = torch.randn(4, 2, 8), torch.arange(4.0)[:, None]
    torch.testing.assert_close(turn(x, coords * 4, step=4.0), turn(x, coords))


@pytest.mark.parametrize(("width", "axes"), [(4, 2), (6, 3), (10, 3), (64, 2), (2, 1)])
def test_every_pair_and_axis_is_used(width: int, axes: int) -> None:
    inv_freq_F, axis_index_F = frequencies(width, axes, 100.0)
    assert len(inv_freq_F) == width // 2
    assert set(axis_index_F.tolist()) == set(range(axes))
    assert max(axis_index_F.bincount()) - min(axis_index_F.bincount()) <= 1


def test_too_many_axes_are_named() -> None:
    with pytest.raises(ConfigError, match="a head of width 4 has 2 rotary pairs for 3 axes; widen the heads"):
        frequencies(4, 3, 100.0)


def test_reads_slices_of_wider_tensors() -> None:
    wide = torch.randn(5, 6, 8)
    coords = torch.rand(5, 1)
    for part in wide.chunk(2, 1):
        torch.testing.assert_close(turn(part, coords), turn(part.contiguous(), coords))


def test_half_precision_autocast_does_not_blur_positions() -> None:
    coords = torch.arange(1000.0)[:, None]
    inv_freq_F, axis_index_F = frequencies(8, 1, 10000.0)
    plain = rotations(coords, torch.ones(1), inv_freq_F, axis_index_F)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotations(coords, torch.ones(1), inv_freq_F, axis_index_F), plain)


def test_the_gradient_turns_back() -> None:
    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    coords = torch.rand(3, 1)
    weight = torch.randn(3, 1, 4, dtype=torch.float64)
    (turn(x, coords) * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(turn(x.grad, coords), weight, atol=1e-6, rtol=1e-6)
