"""The measure of what pooling loses: 1 where nothing is lost, about 0 where nothing is left."""

from __future__ import annotations

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.core.pooling import POOLINGS, PoolingGroups, PoolingSpec, recovery
from hrt_mm.core.spans import Spans


def pooled(name: str, x: torch.Tensor, spans: Spans) -> torch.Tensor:
    groups = PoolingGroups(spans, lambda: spans.positions, 4, spans.uniform == 4, torch.zeros(len(x), 1))
    out: torch.Tensor = POOLINGS[name](PoolingSpec(x.shape[1], 1, 4))(x, groups)
    return out


def test_side_by_side_loses_nothing() -> None:
    spans = Spans.from_lengths([4] * 200)
    x = torch.randn(800, 3)
    assert recovery(x, pooled("conv", x, spans), spans, spans.positions, ridge=1e-9) > 0.9999


def test_noise_says_nothing() -> None:
    spans = Spans.from_lengths([4] * 1000)
    assert abs(recovery(torch.randn(4000, 3), torch.randn(1000, 3), spans, spans.positions)) < 0.03


@pytest.mark.parametrize("name", ["mean", "haar"])
def test_the_mean_of_independent_tokens_gives_back_a_share(name: str) -> None:
    # Of n independent tokens their mean explains 1/n of the variance.
    spans = Spans.from_lengths([4] * 1000)
    x = torch.randn(4000, 3)
    assert recovery(x, pooled(name, x, spans), spans, spans.positions) == pytest.approx(0.25, abs=0.03)


def test_the_first_token_gives_back_itself() -> None:
    spans = Spans.from_lengths([4] * 1000)
    x = torch.randn(4000, 3)
    assert recovery(x, pooled("select", x, spans), spans, spans.positions) == pytest.approx(0.25, abs=0.03)


def test_smooth_tokens_survive_averaging() -> None:
    spans = Spans.from_lengths([4] * 500)
    smooth = torch.randn(500, 3).repeat_interleave(4, 0) + 0.05 * torch.randn(2000, 3)
    for name in ("mean", "haar", "max"):
        assert recovery(smooth, pooled(name, smooth, spans), spans, spans.positions) > 0.95


def test_ragged_groups() -> None:
    lengths = [1 + index % 4 for index in range(800)]
    spans = Spans.from_lengths(lengths)
    x = torch.randn(spans.total, 3)
    some = recovery(x, pooled("mean", x, spans), spans, spans.positions)
    assert 0.25 < some < 0.7
    assert recovery(x, pooled("conv", x, spans), spans, spans.positions, ridge=1e-9) > 0.999


def test_constant_tokens_lose_nothing() -> None:
    spans = Spans.from_lengths([4] * 10)
    assert recovery(torch.ones(40, 2), torch.ones(10, 2), spans, spans.positions) == 1.0


def test_unit_and_offset_do_not_matter() -> None:
    spans = Spans.from_lengths([3] * 300)
    x = torch.randn(900, 3)
    coarse = pooled("mean", x, spans)
    plain = recovery(x, coarse, spans, spans.positions)
    assert recovery(x * 1e3 + 50, coarse, spans, spans.positions) == pytest.approx(plain, abs=1e-3)
    assert recovery(x, coarse * 1e-4 + 7, spans, spans.positions) == pytest.approx(plain, abs=1e-3)


def test_groups_that_differ_by_turns_are_fitted_alike() -> None:
    # As the left and right halves of images do, where a row has two groups.
    spans = Spans.from_lengths([2] * 400)
    side = (torch.arange(400) % 2).float()[:, None]
    coarse = side + 0.01 * torch.randn(400, 1)
    x = (10 * side).repeat_interleave(2, 0) + torch.randn(800, 1)
    assert recovery(x, coarse, spans, spans.positions) == pytest.approx(25 / 26, abs=0.02)


def test_too_few_groups_are_named() -> None:
    spans = Spans.from_lengths([4] * 3)
    with pytest.raises(UserError, match="recovery needs at least 4 groups to fit and score, got 3"):
        recovery(torch.randn(12, 2), torch.randn(3, 2), spans, spans.positions)
