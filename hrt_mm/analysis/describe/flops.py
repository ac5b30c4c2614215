"""FLOPs of a forward pass by formula: matrix products and attention, a multiplication and an addition counted as two.

Attention counts the pairs of query and key that see each other. A kernel that computes hidden pairs and masks them
does more. Norms, rotations, activations and sums are left out, as in ``torch.utils.flop_counter``.

Shapes: T fine tokens, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.block import Block
from ...core.cross_scale import CausalDown, CrossAttention
from ...core.hierarchy import Hierarchy, Stage
from ...core.pooling import AttentionPooling, Pooling
from ...core.routing import DifferenceRouter
from ...core.spans import Spans
from ...core.transition import Transition
from ...core.uncertainty import UncertaintyRouter
from .layout import Laid


@dataclass
class Flops:
    """FLOPs of a level: its blocks, and all that leads to it and away from it."""

    blocks: int = 0
    joints: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.blocks + self.joints


def forward_flops(hierarchy: Hierarchy, levels: list[Laid]) -> list[Flops]:
    """FLOPs of each level. What joins two levels counts where its parameters do: see ``parameter_levels``."""
    costs = [Flops() for _ in levels]
    for stage, level, flops in zip(hierarchy.stages, levels, costs, strict=True):
        flops.blocks = stage_flops(stage, level)
    for index, transition in enumerate(hierarchy.transitions):
        fine, coarse = levels[index], levels[index + 1]
        costs[index].joints += transition_flops(transition, fine.tokens, coarse.tokens)
        if len(hierarchy.top_down):
            top_down = hierarchy.top_down[index]
            costs[index].joints += linear(coarse.tokens, top_down.map)
        if len(hierarchy.down):
            costs[index].joints += _down(hierarchy.down[index], fine, coarse)
        if len(hierarchy.up):
            costs[index + 1].joints += _cross(hierarchy.up[index], coarse.tokens, fine.tokens, fine.tokens)
    return costs


def linear(rows: int, layer: nn.Linear) -> int:
    """FLOPs of a linear map over rows."""
    return 2 * rows * layer.in_features * layer.out_features


def attention(pairs: int, dim: int) -> int:
    """FLOPs of scores and of weighted values, with all heads together ``dim`` wide."""
    return 4 * pairs * dim


def visible_pairs(spans: Spans, window: int | None, causal: bool) -> int:
    """Pairs of query and key that see each other, where each run attends to itself."""
    lengths = spans.lengths
    earlier = _to_one_side(lengths, window)
    after = torch.zeros_like(earlier) if causal else earlier
    # A token sees itself, those before it, and without causality as many after it.
    return int((lengths + earlier + after).sum())


def _to_one_side(lengths: Tensor, window: int | None) -> Tensor:
    """Over all places of a run, the keys within the window to one side."""
    most = (lengths - 1).clamp(min=0)
    reach = most if window is None else most.clamp(max=window)
    # The first tokens of a run see 0, 1, 2, ... keys to that side, all later ones see `reach`.
    return reach * (reach + 1) // 2 + (most - reach) * reach


def stage_flops(stage: Stage, level: Laid) -> int:
    """FLOPs of a level's blocks on both ways."""
    total = 0
    for layers in (stage.encoder, stage.decoder):
        for layer, block in enumerate(layers):
            pairs = visible_pairs(level.plan.attention_spans(layer), level.plan.sliding_window, stage.causal)
            total += block_flops(block, level.tokens, pairs)
    return total


def block_flops(block: Block, tokens: int, pairs: int) -> int:
    """FLOPs of one block."""
    maps = (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down)
    return sum(linear(tokens, layer) for layer in maps) + attention(pairs, block.attention.out.in_features)


def transition_flops(transition: Transition, tokens: int, groups: int) -> int:
    """FLOPs of grouping, pooling, the merge to the coarser width and the auxiliary losses, for one sample."""
    total = pooling_flops(transition.pooling, tokens, groups) + linear(groups, transition.merge)
    if isinstance(transition.router, UncertaintyRouter):
        total += 2 * tokens * transition.fine.dim
    if isinstance(transition.router, DifferenceRouter):
        # The router compares each token with the one before it.
        neighbours = max(0, tokens - 1)
        total += linear(neighbours, transition.router.before) + linear(neighbours, transition.router.here)
    for layer in (transition.align, transition.rebuild):
        total += linear(groups, layer) if layer is not None else 0
    return total


def pooling_flops(pooling: Pooling, tokens: int, groups: int) -> int:
    """FLOPs of a pooling; of one that is not built in, as if each of its linear maps saw every fine token."""
    formula = POOLING_FLOPS.get(type(pooling))
    if formula is not None:
        return formula(pooling, tokens, groups)
    return sum(linear(tokens, layer) for layer in pooling.modules() if isinstance(layer, nn.Linear))


def _attention_pooling(pooling: Pooling, tokens: int, groups: int) -> int:
    assert isinstance(pooling, AttentionPooling)
    maps = linear(groups, pooling.query) + linear(tokens, pooling.key_value) + linear(groups, pooling.out)
    return maps + attention(tokens, pooling.query.out_features)


POOLING_FLOPS: dict[type[Pooling], Callable[[Pooling, int, int], int]] = {AttentionPooling: _attention_pooling}
"""Poolings that do more than one linear map over all tokens, and less."""


def _cross(cross: CrossAttention, queries: int, keys: int, pairs: int) -> int:
    maps = linear(queries, cross.query) + linear(keys, cross.key_value) + linear(queries, cross.out)
    return maps + attention(pairs, cross.query.out_features)


def _down(down: CrossAttention, fine: Laid, coarse: Laid) -> int:
    assert fine.groups is not None
    if isinstance(down, CausalDown):
        pairs = _staircase(fine, coarse)
    else:
        k_spans = coarse.plan.cross_scale_spans()
        q_spans = fine.groups.spans.merge(k_spans)
        pairs = int((q_spans.lengths * k_spans.lengths).sum())
    return _cross(down, fine.tokens, coarse.tokens, pairs)


def _staircase(fine: Laid, coarse: Laid) -> int:
    """In causal mode a token of group g sees g + 1 keys, the null key or its own group among them."""
    assert fine.groups is not None
    seen_G = fine.groups.samples.positions + 1
    if coarse.plan.sliding_window is not None:
        seen_G = seen_G.clamp(max=coarse.plan.sliding_window + 1)
    return int((seen_G * fine.groups.spans.lengths).sum())
