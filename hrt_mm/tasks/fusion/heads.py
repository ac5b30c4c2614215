"""The fusion heads. All take a stream of every tower, and give a vector a sample from whatever of it is there.

Shapes: T tokens, D width, B samples, N towers, M bottleneck tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.block import Block
from ...core.cross_scale import CrossAttention
from ...core.levels import Level
from ...core.linear import InitLinear
from ...core.norm import rms_norm
from ...core.rope import Rotary
from ...core.segments import segment_mean
from ...core.spans import Spans
from ..labels import linear_head
from .config import BottleneckConfig, ConcatConfig, CrossConfig, ExpertsConfig, GatedConfig, JointConfig, TokensConfig
from .streams import Side, TowerStream

THETA = 10_000.0
SOFTPLUS_ONE = math.log(math.e - 1)
"""The number whose softplus is 1."""


class FusionHead(nn.Module, ABC):
    """Streams of the same width to one vector a sample.

    Args:
        towers: names, in order.
        dim: width of the streams and of the vector.
    """

    def __init__(self, towers: Sequence[str], dim: int) -> None:
        super().__init__()
        self.towers, self.dim = tuple(towers), dim

    @abstractmethod
    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors.

        Args:
            streams: of every tower, with B runs each, some of them empty.
        """

    def _in_order(self, streams: Mapping[str, TowerStream]) -> list[TowerStream]:
        return [streams[tower] for tower in self.towers]


def mean_of_present(vectors: Sequence[Tensor], streams: Sequence[TowerStream]) -> Tensor:
    """(B, D) the mean of the towers' vectors over those towers that a sample has; zeros where it has none."""
    present_BN = torch.stack([stream.present_B for stream in streams], 1).to(vectors[0].dtype)
    total_BD = (torch.stack(list(vectors), 1) * present_BN[..., None]).sum(1)
    # A sample may have no modality left, after ablations.
    return total_BD / present_BN.sum(1, keepdim=True).clamp(min=1)


class Concat(FusionHead):
    """Pooled vectors laid end to end, through a layer that lets them speak together."""

    def __init__(self, towers: Sequence[str], config: ConcatConfig) -> None:
        super().__init__(towers, config.dim)
        self.missing_ND = nn.Parameter(torch.empty(len(towers), config.dim))
        self.reset_parameters()
        hidden = 2 * config.dim
        self.map = nn.Sequential(nn.Linear(len(towers) * config.dim, hidden), nn.SiLU(), nn.Linear(hidden, config.dim))

    def reset_parameters(self) -> None:
        """Sets what is its own to where it starts."""
        nn.init.zeros_(self.missing_ND)

    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors."""
        summaries = [
            torch.where(stream.present_B[:, None], stream.pooled(), missing_D)
            for stream, missing_D in zip(self._in_order(streams), self.missing_ND, strict=True)
        ]
        fused_BD: Tensor = self.map(torch.cat(summaries, -1))
        return fused_BD


class Gated(FusionHead):
    """Pooled vectors summed, each channel with weights that sum to 1 over the towers that are there."""

    def __init__(self, towers: Sequence[str], config: GatedConfig) -> None:
        super().__init__(towers, config.dim)
        width = len(towers) * config.dim
        self.gate = InitLinear(width, width, nn.init.zeros_, bias=True)

    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors."""
        parts = self._in_order(streams)
        pooled_BND = torch.stack([stream.pooled() for stream in parts], 1)
        present_BN1 = torch.stack([stream.present_B for stream in parts], 1)[..., None]
        logits_BND = self.gate(pooled_BND.flatten(1)).view_as(pooled_BND)
        # A finite number in place of minus infinity: a sample without any tower then gets a mean of zeros, not NaN.
        weights_BND = logits_BND.masked_fill(~present_BN1, -1e4).softmax(1)
        return (weights_BND * pooled_BND).sum(1)


class Experts(nn.Module):
    """A classifier for each tower, whose log-probabilities are added with weights that depend on the sample.

    The weights are computed from the pooled vectors of all towers and the entropy of their predictions. They start at
    1. No gradient flows through them into the towers. The weight of the only tower of a sample is 1.

    Args:
        towers: names, in order.
        config: widths.
        classes: number of classes.
    """

    def __init__(self, towers: Sequence[str], config: ExpertsConfig, classes: int) -> None:
        super().__init__()
        self.towers = tuple(towers)
        self.heads = nn.ModuleDict({tower: linear_head(config.dim, classes) for tower in towers})
        self.hidden = nn.Linear(len(towers) * (config.dim + 1), config.hidden)
        self.gate = InitLinear(config.hidden, len(towers), nn.init.zeros_, bias=True)

    def forward(self, streams: Mapping[str, TowerStream], dropout: nn.Module) -> Tensor:
        """(B, K) logits.

        Args:
            streams: of every tower, with B runs each, some of them empty.
            dropout: of the classifiers' inputs.
        """
        present_BN = torch.stack([streams[tower].present_B for tower in self.towers], 1)
        pooled_BND = torch.stack([rms_norm(streams[tower].pooled()) for tower in self.towers], 1)
        # Weighted in float32: differences of log-probabilities decide.
        log_probs_BNK = torch.stack(
            [head(dropout(pooled_BND[:, index])).float() for index, head in enumerate(self.heads.values())], 1
        ).log_softmax(-1)
        entropy_BN = -(log_probs_BNK.exp() * log_probs_BNK).sum(-1).masked_fill(~present_BN, 0.0)
        evidence = torch.cat([pooled_BND.flatten(1), entropy_BN.to(pooled_BND.dtype)], 1).detach()
        weights_BN = F.softplus(self.gate(F.silu(self.hidden(evidence))).float() + SOFTPLUS_ONE)
        weights_BN = torch.where(present_BN.sum(1, keepdim=True) > 1, weights_BN, 1.0) * present_BN
        return (weights_BN[..., None] * log_probs_BNK).sum(1)


class TokenFusion(FusionHead):
    """What the fusions of tokens share: positions on the time axis.

    Args:
        towers: names, in order.
        config: width, depth and heads.
    """

    def __init__(self, towers: Sequence[str], config: TokensConfig) -> None:
        super().__init__(towers, config.dim)
        self.rotary = Rotary(config.dim // config.heads, 1, THETA)
        self.level = Level(name="fused", dim=config.dim, depth=config.depth, heads=config.heads)

    def rope(self, coords_T1: Tensor) -> Tensor:
        """Rotary tables of places on the shared axis."""
        return self.rotary.rotations(coords_T1, coords_T1.new_ones(1), next(self.parameters()))


class Cross(TokenFusion):
    """Each tower's tokens attend to those of all other towers, layer by layer."""

    def __init__(self, towers: Sequence[str], config: CrossConfig) -> None:
        super().__init__(towers, config)
        self.looks = nn.ModuleList(
            nn.ModuleDict(
                {tower: CrossAttention(config.dim, config.dim, config.heads, 1, THETA, "auto") for tower in towers}
            )
            for _ in range(config.depth)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleDict({tower: Block(self.level) for tower in towers}) for _ in range(config.depth)
        )

    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors."""
        parts = self._in_order(streams)
        coords = [stream.coords() for stream in parts]
        sides = [Side.by_side([other.samples for other in parts if other is not stream]) for stream in parts]
        one_1 = coords[0].new_ones(1)
        x = [stream.x for stream in parts]
        for looks, blocks in zip(self.looks, self.blocks, strict=True):
            assert isinstance(looks, nn.ModuleDict) and isinstance(blocks, nn.ModuleDict)
            seen = []
            for index, tower in enumerate(self.towers):
                others = [other for other in range(len(parts)) if other != index]
                source = sides[index].lay([x[other] for other in others])
                where = sides[index].lay([coords[other] for other in others])
                look = looks[tower]
                assert isinstance(look, CrossAttention)
                # A run of keys may be empty, where a sample has no other modality; attention then adds zeros.
                attended = look.within(
                    x[index], coords[index], parts[index].samples, source, where, sides[index].samples, one_1
                )
                seen.append(x[index] + attended)
            x = [
                blocks[tower](tower_x, stream.samples, self.rope(where), samples=stream.samples)
                for tower, tower_x, stream, where in zip(self.towers, seen, parts, coords, strict=True)
            ]
        pooled = [segment_mean(rms_norm(tower_x), stream.samples) for tower_x, stream in zip(x, parts, strict=True)]
        return mean_of_present(pooled, parts)


class Bottleneck(TokenFusion):
    """Each tower's blocks run over its own tokens and a few shared ones, which are then averaged over the towers."""

    def __init__(self, towers: Sequence[str], config: BottleneckConfig) -> None:
        super().__init__(towers, config)
        self.shared_MD = nn.Parameter(torch.empty(config.tokens, config.dim))
        self.reset_parameters()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({tower: Block(self.level) for tower in towers}) for _ in range(config.depth)
        )

    def reset_parameters(self) -> None:
        """Sets what is its own to where it starts."""
        nn.init.normal_(self.shared_MD, std=0.3)

    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors."""
        parts = self._in_order(streams)
        batch, count = len(parts[0].samples), len(self.shared_MD)
        shared = Spans.from_lengths([count] * batch, parts[0].x.device)
        sides = [Side.by_side([stream.samples, shared]) for stream in parts]
        # Shared tokens have no place in time.
        nowhere = self.shared_MD.new_zeros(batch * count, 1)
        ropes = [self.rope(side.lay([stream.coords(), nowhere])) for side, stream in zip(sides, parts, strict=True)]
        x, shared_x = [stream.x for stream in parts], self.shared_MD.repeat(batch, 1).to(parts[0].x.dtype)
        for blocks in self.blocks:
            assert isinstance(blocks, nn.ModuleDict)
            written = []
            for index, tower in enumerate(self.towers):
                side = sides[index]
                mixed = blocks[tower](side.lay([x[index], shared_x]), side.samples, ropes[index], samples=side.samples)
                x[index], bottleneck_x = side.part(mixed)
                written.append(rearrange(bottleneck_x, "(b m) d -> b (m d)", b=batch))
            shared_x = rearrange(mean_of_present(written, parts), "b (m d) -> (b m) d", m=count)
        pooled = [segment_mean(rms_norm(tower_x), stream.samples) for tower_x, stream in zip(x, parts, strict=True)]
        return mean_of_present(pooled, parts) + segment_mean(rms_norm(shared_x), shared)


class Joint(TokenFusion):
    """Tokens of all towers in one sequence, each with its tower's own vector added, through transformer blocks."""

    def __init__(self, towers: Sequence[str], config: JointConfig) -> None:
        super().__init__(towers, config)
        self.tower_ND = nn.Parameter(torch.empty(len(towers), config.dim))
        self.reset_parameters()
        self.blocks = nn.ModuleList(Block(self.level) for _ in range(config.depth))

    def reset_parameters(self) -> None:
        """Sets what is its own to where it starts."""
        nn.init.normal_(self.tower_ND, std=0.02)

    def forward(self, streams: Mapping[str, TowerStream]) -> Tensor:
        """(B, D) fused vectors."""
        parts = self._in_order(streams)
        side = Side.by_side([stream.samples for stream in parts])
        x = side.lay(
            [stream.x + tower_D.to(stream.x.dtype) for stream, tower_D in zip(parts, self.tower_ND, strict=True)]
        )
        rope = self.rope(side.lay([stream.coords() for stream in parts]))
        for block in self.blocks:
            x = block(x, side.samples, rope, samples=side.samples)
        pooled = [
            segment_mean(rms_norm(tower_x), stream.samples) for tower_x, stream in zip(side.part(x), parts, strict=True)
        ]
        return mean_of_present(pooled, parts)


AnyConfig = ConcatConfig | GatedConfig | ExpertsConfig | CrossConfig | BottleneckConfig | JointConfig


def build_head(towers: Sequence[str], config: AnyConfig, classes: int) -> FusionHead | Experts:
    """The head of a configuration.

    Args:
        towers: names, in order.
        config: of the fusion.
        classes: number of classes.
    """
    if isinstance(config, ExpertsConfig):
        return Experts(towers, config, classes)
    if isinstance(config, ConcatConfig):
        return Concat(towers, config)
    if isinstance(config, GatedConfig):
        return Gated(towers, config)
    if isinstance(config, CrossConfig):
        return Cross(towers, config)
    if isinstance(config, BottleneckConfig):
        return Bottleneck(towers, config)
    return Joint(towers, config)
