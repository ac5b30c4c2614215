"""Memory that a training step keeps for its backward pass, estimated by formula.

Counted is every tensor that autograd keeps, in elements: inputs of norms and linear maps, queries, keys and values
before and after norm and rotation, the attention's output, and the feed-forward's three products. Left out are what
each token has once (norms' roots, positions), and the copies that ragged runs need on the CPU.

Shapes: T tokens, G groups, D width.
"""

from __future__ import annotations

from torch import nn

from ...core.block import Block
from ...core.cross_scale import CrossAttention
from ...core.hierarchy import Hierarchy, Stage
from ...core.levels import LearnedGroups
from ...core.pooling import AttentionPooling, Pooling
from ...core.routing import DifferenceRouter
from ...core.transition import Transition
from ...core.uncertainty import UncertaintyRouter
from .layout import Laid


def kept_elements(hierarchy: Hierarchy, levels: list[Laid]) -> list[int]:
    """Elements that each level keeps. What joins two levels counts where its parameters do."""
    elements = []
    for stage, level in zip(hierarchy.stages, levels, strict=True):
        elements.append(stage_elements(stage, level.tokens))
    for index, transition in enumerate(hierarchy.transitions):
        fine, coarse = levels[index].tokens, levels[index + 1].tokens
        elements[index] += transition_elements(transition, fine, coarse)
        if len(hierarchy.top_down):
            top_down = hierarchy.top_down[index]
            elements[index] += 2 * coarse * top_down.map.in_features
            if isinstance(transition.group, LearnedGroups) and transition.group.smooth:
                elements[index] += 2 * coarse * top_down.map.out_features
        if len(hierarchy.down):
            elements[index] += _cross(hierarchy.down[index], fine, coarse)
        if len(hierarchy.up):
            elements[index + 1] += _cross(hierarchy.up[index], coarse, fine)
    return elements


def stage_elements(stage: Stage, tokens: int) -> int:
    """Elements of a level's blocks, and of the norm of its output."""
    blocks = [block for layers in (stage.encoder, stage.decoder) for block in layers]
    per_token = stage.level.dim
    for block in blocks:
        per_token += stage.level.dim if block.checkpointed else block_elements(block)
    if blocks and isinstance(blocks[0], Block) and blocks[0].checkpointed:
        # One block at a time is computed again, and kept for as long as its own backward pass.
        per_token += block_elements(blocks[0])
    return per_token * tokens


def block_elements(block: Block) -> int:
    """Elements that a block keeps for each token."""
    dim, hidden = block.attention.out.in_features, block.mlp.down.in_features
    qkv = block.attention.qkv.out_features
    # Queries and keys are there three times: from the map, after their norm, and after rotation.
    turned = (block.attention.heads + block.attention.kv_heads) * block.attention.width
    # Inputs of the norm and of the map; queries, keys and values; the output.
    attention = 2 * dim + qkv + 2 * turned + dim
    # The feed-forward: inputs of norm and map; gate, values, the activated gate, and its product with the values.
    return attention + 2 * dim + 4 * hidden


def transition_elements(transition: Transition, tokens: int, groups: int) -> int:
    """Elements of grouping, pooling, the merge and the auxiliary losses."""
    fine, coarse = transition.fine.dim, transition.coarse.dim
    total = pooling_elements(transition.pooling, tokens, groups) + 2 * groups * transition.merge.in_features
    if isinstance(transition.router, DifferenceRouter):
        total += 4 * tokens * fine
    if isinstance(transition.router, UncertaintyRouter):
        total += tokens * fine
    if transition.align is not None or transition.rebuild is not None:
        total += groups * coarse
    if transition.align is not None:
        total += 2 * groups * fine
    if transition.rebuild is not None:
        total += 2 * tokens * fine
    return total


def pooling_elements(pooling: Pooling, tokens: int, groups: int) -> int:
    """Elements of a pooling; of one that is not built in, the inputs of its linear maps over all tokens."""
    if isinstance(pooling, AttentionPooling):
        dim = pooling.query.in_features
        return dim * (4 * tokens + 3 * groups)
    return sum(tokens * layer.in_features for layer in pooling.modules() if isinstance(layer, nn.Linear))


def _cross(cross: CrossAttention, queries: int, keys: int) -> int:
    query_dim, kv_dim = cross.query.in_features, cross.key_value.in_features
    return queries * 7 * query_dim + keys * (2 * kv_dim + 4 * query_dim)
