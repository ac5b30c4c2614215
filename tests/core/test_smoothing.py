"""Smoothed groups equal the loop that defines them, with its gradients, and mix no samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.routing import DifferenceRouter, Routing
from hrt_mm.core.smoothing import smooth
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens

# PyTorch compiles its forward mode with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*jit.script.*:FutureWarning")

LENGTHS = [[7], [1], [0], [], [0, 3, 1, 0, 0, 12, 2, 0], [64], [65, 1, 63], [1, 1, 1], [300, 41]]


def looped(z_GD: Tensor, prob_G: Tensor, samples: Spans) -> Tensor:
    """The definition."""
    rows: list[Tensor] = []
    for first, last in zip(samples.host.tolist(), samples.host[1:].tolist(), strict=False):
        for at in range(first, last):
            prob = prob_G[at]
            rows.append(z_GD[at] if at == first else prob * z_GD[at] + (1 - prob) * rows[-1])
    return torch.stack(rows) if rows else z_GD


def drawn(lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Spans]:
    generator = torch.Generator().manual_seed(4)
    samples = Spans.from_lengths(lengths)
    z_GD = torch.randn(samples.total, 5, generator=generator, dtype=dtype)
    return z_GD, torch.rand(samples.total, generator=generator, dtype=torch.float64), samples


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_it_equals_the_loop_with_its_gradients(lengths: list[int]) -> None:
    z_GD, prob_G, samples = drawn(lengths)
    weight_GD = torch.randn(z_GD.shape, dtype=torch.float64)
    results = []
    for function in (smooth, looped):
        z, prob = z_GD.clone().requires_grad_(), prob_G.clone().requires_grad_()
        out = function(z, prob, samples)
        (out * weight_GD).sum().backward()
        results.append((out.detach(), z.grad, prob.grad if prob.grad is not None else torch.zeros_like(prob)))
    for actual, expected in zip(*results, strict=True):
        assert actual is not None and expected is not None
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [[4, 0, 1, 6], [1, 1]], ids=str)
def test_gradients_are_exact(lengths: list[int]) -> None:
    z_GD, prob_G, samples = drawn(lengths)
    inputs = (z_GD.requires_grad_(), prob_G.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, prob: smooth(z, prob, samples), inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z, prob: smooth(z, prob, samples), inputs)


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_sure_boundaries_change_nothing_and_denied_ones_hold_the_first(prob: float) -> None:
    z_GD, _, samples = drawn([5, 3])
    out_GD = smooth(z_GD, torch.full((8,), prob, dtype=torch.float64), samples)
    firsts = z_GD[[0, 0, 0, 0, 0, 5, 5, 5]]
    torch.testing.assert_close(out_GD, z_GD if prob else firsts, rtol=0, atol=0)


def test_half_precision_is_summed_in_full() -> None:
    z_GD, prob_G, samples = drawn([200], torch.bfloat16)
    out_GD = smooth(z_GD, prob_G.float(), samples)
    assert out_GD.dtype == torch.bfloat16
    wanted_GD = looped(z_GD.double(), prob_G, samples)
    torch.testing.assert_close(out_GD.double(), wanted_GD, rtol=2**-8, atol=1e-3)


def test_nothing_is_read_from_the_device() -> None:
    z_GD, prob_G, samples = drawn([9, 0, 30])
    z_GD, prob_G = z_GD.to("meta").requires_grad_(), prob_G.to("meta").requires_grad_()
    out_GD = smooth(z_GD, prob_G, samples.to("meta"))
    out_GD.sum().backward()
    assert z_GD.grad is not None and prob_G.grad is not None


def test_what_came_back_before_continues() -> None:
    """The causal pass starts from the last smoothed group, which stays as it is."""
    z_GD, prob_G, samples = drawn([9])
    whole_GD = smooth(z_GD, prob_G, samples)
    z_GD, prob_G = torch.cat([whole_GD[6:7], z_GD[7:]]), torch.cat([torch.ones_like(prob_G[:1]), prob_G[7:]])
    torch.testing.assert_close(smooth(z_GD, prob_G, Spans.from_lengths([3])), whole_GD[6:])


def config(*, smooth: bool, top_down: bool = True, causal: bool = True, pool: str = "mean") -> HierarchyConfig:
    fine = {"name": "fine", "dim": 16, "heads": 2, "depth": 1, "window": 4, "window_type": "sliding", "pool": pool}
    fine["decoder_depth"] = 0
    fine["group"] = {"type": "learned", "target": 3, "max": 6, "smooth": smooth}
    coarse = {"name": "coarse", "dim": 24, "heads": 2, "depth": 1}
    return HierarchyConfig.model_validate({"levels": [fine, coarse], "causal": causal, "top_down": top_down})


def awake(model: Hierarchy) -> Hierarchy:
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pool", ["mean", "select", "haar"])
def test_a_hierarchy_smooths_what_comes_back_alone(pool: str, causal: bool) -> None:
    tokens = Tokens.pack([torch.randn(60, 16), torch.randn(25, 16)])
    plain, smooth = (awake(Hierarchy(config(smooth=on, pool=pool, causal=causal))) for on in (False, True))
    before, after = plain(tokens), smooth(tokens)
    assert torch.equal(before["coarse"].x, after["coarse"].x)
    changed = (before["fine"].x - after["fine"].x).abs().amax(1) > 1e-6
    assert changed[:60].any() and changed[60:].any()
    # Each sample's first group is its own, and comes back as it is; when causal, to the second.
    firsts = after.groups["fine"].lengths[: 1 + causal]
    assert not changed[: int(firsts[0])].any()


def test_the_way_back_alone_moves_the_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoothing gives the router a gradient of its own, beside those of confidence and doubt."""
    model = awake(Hierarchy(config(smooth=True)))
    transition = model.transitions[0]
    assert isinstance(transition.router, DifferenceRouter)
    weight, decide = transition.router.here.weight, transition.router.forward
    x, direction = torch.randn(60, 16), torch.randn(16)

    def gradient() -> Tensor:
        (result,) = torch.autograd.grad((model(Tokens.pack([x]))["fine"].x * direction).sum(), weight)
        return result

    def bare(*args: Any) -> Routing:
        routing = decide(*args)
        return replace(routing, confidence_T=routing.confidence_T.detach(), doubt_T=routing.doubt_T.detach())

    whole = gradient()
    monkeypatch.setattr(transition.router, "forward", bare)
    own = gradient()
    assert own.norm() > 1e-2
    assert (whole - own).norm() > 1e-2


@pytest.mark.parametrize("pool", ["mean", "select"])
def test_no_output_depends_on_a_later_token(pool: str) -> None:
    model = awake(Hierarchy(config(smooth=True, pool=pool))).double().eval()
    x = torch.randn(40, 16, dtype=torch.float64)
    whole = model(Tokens.pack([x]))[0].x
    for at in range(1, 40):
        changed = x.clone()
        changed[at:] = torch.randn(40 - at, 16, dtype=torch.float64)
        torch.testing.assert_close(model(Tokens.pack([changed]))[0].x[:at], whole[:at], rtol=0, atol=1e-12)


def test_it_needs_a_way_down() -> None:
    with pytest.raises(ValueError, match=r"group\.smooth of level 'fine' has no effect without top_down"):
        config(smooth=True, top_down=False)
