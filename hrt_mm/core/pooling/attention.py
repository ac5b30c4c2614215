"""Attention pooling: one query per group attends to the tokens of the group.

Shapes: T tokens, G groups, D width, H heads, E head width, C axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention import attend
from ..linear import InitLinear
from ..norm import rms_norm
from ..rope import Rotary, rotate
from ..segments import segment_mean
from .base import Pooling, PoolingGroups, PoolingSpec, register_pooling


@register_pooling("attention")
class AttentionPooling(Pooling):
    """The mean of the group is the query; the attention output is added to it.

    The output projection is initialized to zero, so training starts from mean pooling.
    """

    def __init__(self, spec: PoolingSpec) -> None:
        super().__init__(spec)
        self.heads, self.backend = spec.heads, spec.backend
        self.query = nn.Linear(spec.dim, spec.dim, bias=False)
        self.key_value = nn.Linear(spec.dim, 2 * spec.dim, bias=False)
        self.out = InitLinear(spec.dim, spec.dim, nn.init.zeros_)
        self.rotary = Rotary(spec.dim // spec.heads, spec.axes, spec.theta)

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        mean_GD = segment_mean(x_TD, groups.spans)
        normed_TD = rms_norm(x_TD)
        # One query per group from the mean of its normalized tokens, at the mean of their coordinates.
        q_GHE = self.query(segment_mean(normed_TD, groups.spans)).unflatten(-1, (self.heads, -1))
        # (T, 2 * D) to (T, 2 * H, E): the first H heads are keys, the others values.
        k_THE, v_THE = self.key_value(normed_TD).unflatten(-1, (2 * self.heads, -1)).chunk(2, 1)
        coords_GC = segment_mean(groups.coords_TC, groups.spans)
        out_GHE = attend(
            self._rotate(q_GHE, coords_GC),
            self._rotate(k_THE, groups.coords_TC),
            v_THE,
            groups.spans.singletons,
            groups.spans,
            backend=self.backend,
        )
        pooled_GD: Tensor = mean_GD + self.out(out_GHE.flatten(1))
        return pooled_GD

    def _rotate(self, x_THE: Tensor, coords_TC: Tensor) -> Tensor:
        unit_C = torch.ones(coords_TC.shape[1], device=coords_TC.device)  # already in units of the level
        wide_THE = x_THE if x_THE.dtype == torch.float64 else x_THE.float()
        return rotate(wide_THE, self.rotary.rotations(coords_TC, unit_C, x_THE)).to(x_THE.dtype)
