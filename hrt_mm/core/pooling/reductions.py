"""Poolings without learned parts, and patch merging.

Shapes: T tokens, G groups, D width of a token, K positions in a group.
"""

from __future__ import annotations

from torch import Tensor

from ..segments import segment_first, segment_max, segment_mean
from .base import Pooling, PoolingGroups, PoolingSpec, register_pooling


@register_pooling("mean")
class MeanPooling(Pooling):
    """The mean of the group's tokens."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_mean(x_TD, groups.spans)


@register_pooling("max")
class MaxPooling(Pooling):
    """The largest value of each channel (Hiera, arXiv 2306.00989)."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_max(x_TD, groups.spans)


@register_pooling("select")
class SelectPooling(Pooling):
    """The group's first token (H-Net, arXiv 2507.07955)."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_first(x_TD, groups.spans)


@register_pooling("conv")
class ConvPooling(Pooling):
    """Patch merging (Swin, arXiv 2103.14030): the group's tokens side by side, for the linear map that follows.

    Missing tokens leave zeros. In a group longer than its group_size, the tokens that share a position are averaged.
    """

    def __init__(self, site: PoolingSpec) -> None:
        super().__init__(site)
        self.width = site.dim * site.group_size
        self.group_size = site.group_size

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        if groups.full:
            return x_TD.unflatten(0, (-1, self.group_size)).flatten(1)
        count, spans = len(groups.spans), groups.spans
        place_T = spans.ids * self.group_size + groups.position_in_group_T()
        side_by_side = x_TD.new_zeros(count * self.group_size, x_TD.shape[1]).index_add(0, place_T, x_TD)
        if spans.max_seqlen > self.group_size:
            sharing = x_TD.new_zeros(count * self.group_size).index_add(0, place_T, x_TD.new_ones(len(x_TD)))
            side_by_side = side_by_side / sharing.clamp(min=1)[:, None]
        return side_by_side.view(count, self.width)
