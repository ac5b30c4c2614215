"""Poolings without parameters, and patch merging.

Shapes: T tokens, G groups, D width of a token, K positions in a group.
"""

from __future__ import annotations

from torch import Tensor

from ..segments import only_valid, segment_first, segment_max, segment_mean
from .base import Pooling, PoolingGroups, PoolingSpec, register_pooling


@register_pooling("mean")
class MeanPooling(Pooling):
    """The mean of the group's tokens."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_mean(x_TD, groups.spans)


@register_pooling("max")
class MaxPooling(Pooling):
    """The maximum of each channel (Hiera, arXiv 2306.00989)."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_max(x_TD, groups.spans)


@register_pooling("select")
class SelectPooling(Pooling):
    """The group's first token (H-Net, arXiv 2507.07955)."""

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        return segment_first(x_TD, groups.spans)


@register_pooling("conv")
class ConvPooling(Pooling):
    """Patch merging (Swin, arXiv 2103.14030): the concatenated tokens of a group, for the linear map that follows.

    Missing tokens are zeros. In a group longer than ``group_size``, tokens that share a position are averaged.
    """

    def __init__(self, spec: PoolingSpec) -> None:
        super().__init__(spec)
        self.width = spec.dim * spec.group_size
        self.group_size = spec.group_size

    def forward(self, x_TD: Tensor, groups: PoolingGroups) -> Tensor:
        if groups.full:
            # Tokens are in the order of their positions already, so concatenation is a view.
            return only_valid(x_TD, groups.spans).unflatten(0, (-1, self.group_size)).flatten(1)
        count, spans = len(groups.spans), groups.spans
        # Scatter the tokens into (G * K, D), a row for each position of every group, then join the K rows of a group.
        row_T = spans.ids * self.group_size + groups.position_in_group_T()
        concatenated = x_TD.new_zeros(count * self.group_size, x_TD.shape[1]).index_add(0, row_T, x_TD)
        if spans.max_seqlen > self.group_size:
            # A column of ones, scattered likewise, counts the tokens that share a row.
            tokens_per_position = x_TD.new_zeros(count * self.group_size).index_add(0, row_T, x_TD.new_ones(len(x_TD)))
            concatenated = concatenated / tokens_per_position.clamp(min=1)[:, None]
        return concatenated.view(count, self.width)
