from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.analysis.describe.layout import sample_of
from hrt_mm.analysis.report.attention import Layer, recorded
from hrt_mm.core.block import Attention
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.core.spans import Spans


def level(**options: Any) -> Level:
    return Level(name="only", dim=32, heads=4, depth=2, **options)


REACHES: dict[str, tuple[Level, bool, tuple[int, ...]]] = {
    "global": (level(), False, (13,)),
    "blocks": (level(window=4), False, (13,)),
    "shifted": (level(window=4, window_type="shifted"), False, (13,)),
    "sliding": (level(window=3, window_type="sliding"), False, (13,)),
    "causal": (level(), True, (13,)),
    "causal-sliding": (level(window=3, window_type="sliding"), True, (13,)),
    "grouped-queries": (level(kv_heads=2), False, (13,)),
    "grid": (level(window=4), False, (9, 6)),
}


def run(name: str) -> tuple[list[Attention], list[Layer], list[Tensor], list[Tensor]]:
    """The attention modules of a hierarchy, what was recorded of them, and their inputs and outputs."""
    one, causal, shape = REACHES[name]
    hierarchy = Hierarchy(HierarchyConfig(levels=(one,), causal=causal), len(shape))
    for parameter in hierarchy.parameters():
        nn.init.normal_(parameter, std=0.3)
    modules = [module for module in hierarchy.modules() if isinstance(module, Attention)]
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        inputs.append(args[0])
        outputs.append(output)

    for module in modules:
        module.register_forward_hook(keep)
    tokens = sample_of(shape, hierarchy)
    with torch.no_grad(), recorded(hierarchy) as layers:
        hierarchy(tokens.with_x(torch.randn(tokens.spans.total, 32)))
    return modules, layers, inputs, outputs


@pytest.mark.parametrize("name", REACHES)
def test_weights_make_what_the_block_made(name: str) -> None:
    for module, layer, x_TD, out_TD in zip(*run(name), strict=True):
        values_TKE = module.qkv(x_TD).unflatten(-1, (-1, module.width))[:, module.heads + module.kv_heads :]
        share = module.heads // module.kv_heads
        heads = []
        for head in range(module.heads):
            single = replace(layer, q_THE=layer.q_THE[:, [head]], k_TKE=layer.k_TKE[:, [head // share]])
            weights = torch.stack([single.weights(query) for query in range(len(x_TD))])
            heads.append(weights @ values_TKE[:, head // share])
        torch.testing.assert_close(module.out(torch.cat(heads, 1)), out_TD, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", REACHES)
def test_matrix_is_the_rows_of_weights(name: str) -> None:
    _, layers, _, _ = run(name)
    for layer in layers:
        rows = torch.stack([layer.weights(query) for query in range(layer.spans.total)])
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
        torch.testing.assert_close(layer.matrix(1000), rows)
        torch.testing.assert_close(layer.matrix(5), rows[:5, :5])


def test_distances_of_even_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_mm.analysis.report.attention.CHUNK", 3)
    zeros = torch.zeros(6, 2, 4)
    coords = torch.tensor([[0.0], [1.0], [2.0], [3.0], [0.0], [8.0]])
    layer = Layer(0, "encoder", 0, zeros, zeros, Spans.from_lengths([4, 2]), None, False)
    inner = sum(abs(a - b) for a in range(4) for b in range(4)) / 4
    expected = (inner + 2 * 4.0) / 6
    looked, even = layer.distances(coords)
    assert looked == pytest.approx(expected)
    assert even == pytest.approx(expected)


def test_distance_of_a_token_that_looks_at_one_other() -> None:
    q_THE = torch.tensor([[100.0, 0.0], [0.0, 100.0]])[:, None]
    k_TKE = torch.tensor([[0.0, 100.0], [100.0, 0.0]])[:, None]
    layer = Layer(0, "encoder", 0, q_THE, k_TKE, Spans.from_lengths([2]), None, False)
    looked, even = layer.distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert looked == pytest.approx(5.0)
    assert even == pytest.approx(2.5)


def test_both_ways_and_all_levels_are_recorded() -> None:
    levels = (
        level(group=FixedGroups(stride=4), decoder_depth=1),
        Level(name="top", dim=32, heads=4, depth=1),
    )
    hierarchy = Hierarchy(HierarchyConfig(levels=levels, top_down=True), 1)
    tokens = sample_of((12,), hierarchy)
    with torch.no_grad(), recorded(hierarchy) as layers:
        hierarchy(tokens.with_x(torch.randn(12, 32)))
    assert [(layer.level, layer.name) for layer in layers] == [
        (0, "block 1"),
        (0, "block 2"),
        (1, "block 1"),
        (0, "decoder 1"),
    ]
    hierarchy(tokens.with_x(torch.randn(12, 32)))
    assert len(layers) == 4
