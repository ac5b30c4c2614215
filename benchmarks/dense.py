"""The hierarchy as one would write it by hand for batches of one length: reshapes and SDPA, the same weights.

Ragged batches are padded, as such code does: masks keep padding out of attention and means. The norm, the linear maps
and the complex form of the rotation are the packed path's, so that what differs is the packing alone.

Shapes: B samples, L tokens of a sample at a level, D width, H heads, E head width, N windows, W tokens a window.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm import FixedGroups, Hierarchy
from hrt_mm.core.block import Attention
from hrt_mm.core.hierarchy import Stage
from hrt_mm.core.levels import Level
from hrt_mm.core.norm import rms_norm


class DenseHierarchy(nn.Module):
    """A dense copy of a 1-D hierarchy of fixed strides, block windows and mean pooling.

    Padded lengths must be multiples of every window and stride, counted in level-0 tokens: see ``multiple``.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        super().__init__()
        config = hierarchy.config
        extras = config.top_down, config.causal, config.cross_scale.up, config.cross_scale.down
        plain = all(level.window_type == "block" and level.pool == "mean" for level in config.levels)
        assert hierarchy.axes == 1 and plain and not any(extras), "the dense copy knows the plain hierarchy alone"
        self.levels: tuple[Level, ...] = config.levels
        self.stages = copy.deepcopy(hierarchy.stages)
        self.transitions = copy.deepcopy(hierarchy.transitions)

    @property
    def multiple(self) -> int:
        """What padded lengths are multiples of."""
        result, step = 1, 1
        for level in self.levels:
            result = math.lcm(result, step * (level.window if isinstance(level.window, int) else 1))
            step *= _stride(level)
        return math.lcm(result, step)

    def forward(self, x_BLD: Tensor, real_BL: Tensor | None = None) -> list[Tensor]:
        """The tokens of every level.

        Args:
            x_BLD: padded samples.
            real_BL: bool, false at padding; absent where there is none.
        """
        position = torch.arange(x_BLD.shape[1], device=x_BLD.device, dtype=torch.float32)
        position = position if real_BL is None else position.expand(real_BL.shape)
        levels, step = [], 1
        for index, stage in enumerate(self.stages):
            x_BLD = _stage(stage, x_BLD, position / step, real_BL)
            levels.append(rms_norm(x_BLD))
            if index + 1 == len(self.stages):
                break
            transition = self.transitions[index]
            stride = _stride(stage.level)
            x_BLD = transition.merge(rms_norm(_pool(x_BLD, stride, real_BL)))
            position = _pool(position[..., None], stride, real_BL)[..., 0]
            real_BL = real_BL if real_BL is None else real_BL.unflatten(1, (-1, stride)).any(-1)
            step *= stride
        return levels


def _stride(level: Level) -> int:
    """Tokens a group; 1 at the last level."""
    group = level.group
    if group is None:
        return 1
    assert isinstance(group, FixedGroups) and isinstance(group.stride, int)
    return group.stride


def _pool(x: Tensor, stride: int, real_BL: Tensor | None) -> Tensor:
    """(..., L, D) to (..., L/stride, D): the mean of each group's real tokens."""
    if real_BL is None:
        return x.unflatten(-2, (-1, stride)).mean(-2)
    groups = x.masked_fill(~real_BL[..., None], 0).unflatten(-2, (-1, stride))
    count: Tensor = real_BL.unflatten(1, (-1, stride)).sum(-1, keepdim=True)
    return groups.sum(-2) / count.clamp(min=1).to(x.dtype)


def _stage(stage: Stage, x_BLD: Tensor, place: Tensor, real_BL: Tensor | None) -> Tensor:
    """The blocks of a level; ``place`` is (L,), or (B, L) where samples differ in length."""
    angles = place[..., None] * stage.rotary.tables(x_BLD)[0]
    turn = torch.polar(torch.ones_like(angles), angles)[..., None, :]
    window = stage.level.window
    assert window is None or isinstance(window, int)
    seen = None if real_BL is None else _seen(real_BL, window or real_BL.shape[1])
    for block in stage.encoder:
        x_BLD = x_BLD + _attend(block.attention, rms_norm(x_BLD), window, turn, seen)
        x_BLD = x_BLD + block.mlp(rms_norm(x_BLD))
    return x_BLD


def _seen(real_BL: Tensor, window: int) -> Tensor:
    """(N, 1, 1, W) keys that windows see; those of padding alone see themselves, since nothing reads them."""
    real_NW = real_BL.reshape(-1, window)
    return (real_NW | ~real_NW.any(1, keepdim=True))[:, None, None]


def _attend(attention: Attention, x_BLD: Tensor, window: int | None, turn: Tensor, seen: Tensor | None) -> Tensor:
    batch, length, _ = x_BLD.shape
    heads = attention.heads
    qkv_BLXE = attention.qkv(x_BLD).view(batch, length, 3 * heads, attention.width)
    qk_BLXE, v_BLHE = qkv_BLXE.split([2 * heads, heads], 2)
    pairs = torch.view_as_complex(rms_norm(qk_BLXE.float()).unflatten(-1, (-1, 2)))
    q_BLHE, k_BLHE = torch.view_as_real(pairs * turn).flatten(-2).chunk(2, 2)
    q_BLHE, k_BLHE = (q_BLHE * attention.q_gain).to(v_BLHE.dtype), k_BLHE.to(v_BLHE.dtype)
    shape = (-1, window or length, heads, attention.width)
    q_NHWE, k_NHWE, v_NHWE = (part.reshape(shape).transpose(1, 2) for part in (q_BLHE, k_BLHE, v_BLHE))
    out_NHWE = F.scaled_dot_product_attention(q_NHWE, k_NHWE, v_NHWE, attn_mask=seen)
    mixed_BLD: Tensor = attention.out(out_NHWE.transpose(1, 2).reshape(batch, length, -1))
    return mixed_BLD
