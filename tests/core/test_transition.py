"""Reconstruction and alignment between neighbouring levels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.plan import Groups
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.core.transition import Transition

Configure = Callable[..., HierarchyConfig]
Pack = Callable[..., Tokens]


@pytest.fixture
def transition(configure: Configure, awake: Callable[..., None]) -> Transition:
    one = Transition(configure(alignment=0.5, reconstruction=2.0), 0, 1, 1e4).double()
    awake(one)
    return one


def test_the_target_gets_no_gradient(transition: Transition) -> None:
    groups = Groups(Spans.from_lengths([3, 1, 2]), Spans.from_lengths([2, 1]), 3)
    fine = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    losses = transition.losses(fine, coarse, groups)
    assert set(losses) == {"alignment/fine", "reconstruction/fine"}
    for name, loss in losses.items():
        to_fine, to_coarse = torch.autograd.grad(loss, (fine, coarse), retain_graph=True, allow_unused=True)
        assert to_coarse.abs().sum() > 0, name
        assert not torch.is_tensor(to_fine), name


def test_the_losses_are_what_they_say(transition: Transition) -> None:
    groups = Groups(Spans.from_lengths([3, 1, 2]), Spans.from_lengths([2, 1]), 3)
    fine, coarse = torch.randn(6, 12, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)
    losses = transition.losses(fine, coarse, groups)
    target = F.rms_norm(fine, (12,), eps=1e-6)
    source = F.rms_norm(coarse, (16,), eps=1e-6)
    assert transition.align is not None and transition.rebuild is not None
    means = torch.stack([part.mean(0) for part in groups.spans.split(target)])
    alignment = (1 - F.cosine_similarity(transition.align(source), means, dim=-1)).mean()
    torch.testing.assert_close(losses["alignment/fine"].double(), 0.5 * alignment, atol=1e-5, rtol=1e-5)
    positions = transition.rebuild(source).view(3, 3, 12)
    guess = torch.cat([positions[0], positions[1][:1], positions[2][:2]])
    torch.testing.assert_close(
        losses["reconstruction/fine"].double(), 2 * (guess - target).square().mean(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("group", ["fixed", "given", "learned"])
@pytest.mark.parametrize("axes", [1, 2])
def test_training_on_the_losses_lowers_them(group: str, axes: int, configure: Configure, pack: Pack) -> None:
    torch.manual_seed(0)
    model = Hierarchy(configure("mean", group, axes=axes, alignment=1.0, reconstruction=1.0), axes)
    tokens = pack([(24,), (17,)] if axes == 1 else [(5, 7), (3, 2)], model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history: list[dict[str, float]] = []
    for _ in range(40):
        losses = {name: loss for name, loss in model(tokens).losses.items() if "ratio" not in name}
        assert set(losses) == {f"{kind}/{name}" for kind in ("alignment", "reconstruction") for name in ("fine", "mid")}
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    for name, first in history[0].items():
        assert history[-1][name] < 0.7 * first, f"{name} went from {first:.3f} to {history[-1][name]:.3f}"


def test_weights_scale_the_losses_and_zero_leaves_them_out(configure: Configure, pack: Pack) -> None:
    result = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        model = Hierarchy(configure(alignment=weight, reconstruction=weight))
        result.append(model(pack([(9,)], model)).losses)
    assert set(result[0]) == {f"{kind}/{name}" for kind in ("alignment", "reconstruction") for name in ("fine", "mid")}
    for name in result[0]:
        torch.testing.assert_close(result[1][name], 3 * result[0][name])
    plain = Hierarchy(configure())
    assert not plain(pack([(9,)], plain)).losses


def test_learned_groups_tell_their_ratio(configure: Configure, pack: Pack) -> None:
    model = Hierarchy(configure("mean", "learned"))
    pyramid = model(pack([(24,), (17,)], model))
    assert set(pyramid.losses) == {"ratio/fine"}
    assert set(pyramid.stats) == {"tokens_per_group/fine", "forced_groups/fine"}
    groups = pyramid.groups["fine"]
    assert float(pyramid.stats["tokens_per_group/fine"]) == pytest.approx(41 / len(groups))
    assert groups.max_seqlen <= 4
