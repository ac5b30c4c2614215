from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrt_mm.analysis.describe.flops import POOLING_FLOPS, forward_flops, linear, pooling_flops, visible_pairs
from hrt_mm.analysis.describe.layout import lay_out, on_meta, sample_of
from hrt_mm.core.attention.call import Call
from hrt_mm.core.attention.reference import Reference, visible
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import CrossScale, FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level
from hrt_mm.core.pooling import POOLINGS, AttentionPooling, PoolingSpec
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens


def level(name: str, dim: int, **options: Any) -> Level:
    return Level(name=name, dim=dim, heads=dim // 16, mlp_ratio=2, **options)


def pyramid(pool: str = "mean", *, axes: int = 1, **options: Any) -> HierarchyConfig:
    stride, window = (4, 16) if axes == 1 else (2, 4)
    levels = (
        level("fine", 32, group=FixedGroups(stride=stride), window=window, pool=pool),
        level("middle", 48, group=FixedGroups(stride=stride), window=window, pool=pool, decoder_depth=2),
        level("coarse", 64, depth=1),
    )
    # Counted on the mathematical backend: the counter knows no formula for the CPU's fused kernel.
    return HierarchyConfig(levels=levels, backend="reference", **options)


@pytest.fixture(autouse=True)
def _every_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """einsum multiplies rows of one key without a matrix product, which the counter would not see."""

    def attend(self: Reference, call: Call) -> Tensor:
        share = call.q_THD.shape[1] // call.k_SKD.shape[1]
        outputs = []
        for q_LHD, k_MKD, v_MKD in zip(
            call.q_spans.split(call.q_THD), call.k_spans.split(call.k_SKD), call.k_spans.split(call.v_SKD), strict=True
        ):
            k_HDM = k_MKD.repeat_interleave(share, 1).permute(1, 2, 0)
            v_HMD = v_MKD.repeat_interleave(share, 1).transpose(0, 1)
            outputs.append((q_LHD.transpose(0, 1).bmm(k_HDM).softmax(-1)).bmm(v_HMD).transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(Reference, "__call__", attend)


def counted(config: HierarchyConfig, tokens: Tokens) -> int:
    hierarchy = Hierarchy(config, tokens.axes)
    features = tokens.with_x(torch.randn(tokens.spans.total, config.levels[0].dim))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hierarchy(features)
    return counter.get_total_flops()


def by_formula(config: HierarchyConfig, tokens: Tokens) -> int:
    hierarchy = on_meta(config, tokens.axes)
    return sum(flops.total for flops in forward_flops(hierarchy, lay_out(hierarchy, tokens)))


JOINTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "up": {"cross_scale": CrossScale(up=True)},
    "down": {"cross_scale": CrossScale(down=True)},
    "both": {"cross_scale": CrossScale(up=True, down=True), "top_down": True},
    "top_down": {"top_down": True},
    "losses": {"alignment": 1.0, "reconstruction": 1.0},
}


@pytest.mark.parametrize("shape", [(64,), (71,), (3,), (16, 16), (13, 11)], ids=str)
@pytest.mark.parametrize("joints", JOINTS)
def test_formula_equals_counter(joints: str, shape: tuple[int, ...]) -> None:
    config = pyramid(axes=len(shape), **JOINTS[joints])
    tokens = sample_of(shape, on_meta(config, len(shape)))
    assert by_formula(config, tokens) == counted(config, tokens)


@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_formula_equals_counter_for_every_pooling(pool: str) -> None:
    config = pyramid(pool)
    tokens = sample_of((83,), on_meta(config, 1))
    assert by_formula(config, tokens) == counted(config, tokens)


def test_formula_equals_counter_for_shifted_windows_and_grouped_queries() -> None:
    one = level("only", 64, window=8, window_type="shifted", depth=3, kv_heads=2)
    config = HierarchyConfig(levels=(one,), backend="reference")
    tokens = sample_of((45,), on_meta(config, 1))
    assert by_formula(config, tokens) == counted(config, tokens)


def test_formula_equals_counter_for_given_groups() -> None:
    fine = level("letters", 32, group=GivenGroups(type="given", boundary="words", max=6))
    config = HierarchyConfig(levels=(fine, level("words", 48)), backend="reference")
    starts = torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.2
    tokens = Tokens.pack([torch.empty(50, 0)], boundaries={"words": [starts]})
    assert by_formula(config, tokens) == counted(config, tokens)


def test_learned_groups_count_at_their_target() -> None:
    fine = level("letters", 32, group=LearnedGroups(type="learned", target=4, max=8))
    config = HierarchyConfig(levels=(fine, level("words", 48)), backend="reference")
    hierarchy = on_meta(config, 1)
    levels = lay_out(hierarchy, sample_of((64,), hierarchy))
    assert [one.tokens for one in levels] == [64, 16]
    same_sizes = HierarchyConfig(
        levels=(level("letters", 32, group=FixedGroups(stride=4)), level("words", 48)), backend="reference"
    )
    router = 2 * (2 * 63 * 32 * 32)
    assert by_formula(config, sample_of((64,), hierarchy)) == router + counted(same_sizes, sample_of((64,), hierarchy))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 0, 1, 5, 40])
def test_visible_pairs_equal_the_mask(window: int | None, causal: bool) -> None:
    lengths = [0, 1, 7, 23]
    left = -1 if window is None else window
    right = 0 if causal else left
    expected = sum(int(visible(n, n, (left, right), torch.device("cpu")).sum()) for n in lengths if n)
    assert visible_pairs(Spans.from_lengths(lengths), window, causal) == expected


@pytest.mark.parametrize(("window", "pool"), [(None, "mean"), (3, "mean"), (None, "select"), (2, "select")])
def test_causal_staircase_counts_what_each_token_sees(window: int | None, pool: str) -> None:
    reach = {} if window is None else {"window": window, "window_type": "sliding"}
    levels = (level("fine", 32, group=FixedGroups(stride=4), pool=pool), level("coarse", 48, depth=0, **reach))
    config = HierarchyConfig(levels=levels, causal=True, cross_scale=CrossScale(down=True))
    without = config.model_copy(update={"cross_scale": CrossScale()})
    tokens = sample_of((30,), on_meta(config, 1))
    seen = sum(min(index // 4 + 1, index // 4 + 1 if window is None else window + 1) for index in range(30))
    maps = 2 * 2 * 30 * 32 * 32 + 2 * 8 * 48 * 64
    assert by_formula(config, tokens) - by_formula(without, tokens) == maps + 4 * seen * 32


def test_unknown_pooling_counts_its_linear_maps_over_all_tokens() -> None:
    class Projected(AttentionPooling):
        pass

    pooling = Projected(PoolingSpec(dim=32, heads=2, group_size=4))
    assert Projected not in POOLING_FLOPS
    maps = [layer for layer in pooling.modules() if isinstance(layer, nn.Linear)]
    assert pooling_flops(pooling, 40, 10) == sum(linear(40, layer) for layer in maps) > 0
