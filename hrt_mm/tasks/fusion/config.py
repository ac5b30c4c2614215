"""How modalities are fused, as configurations say it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from ...core.component import Component


class FusionConfig(Component):
    """What all fusions share."""

    dim: PositiveInt = 128
    """Width that every tower is brought to, and of the fused vector."""


class ConcatConfig(FusionConfig):
    """The pooled vectors of all towers, laid end to end; one that is missing has a learned vector in its place."""

    type: Literal["concat"]


class GatedConfig(FusionConfig):
    """A sum of the pooled vectors, weighed for each channel by what all of them say; what is missing weighs nothing."""

    type: Literal["gated"]


class ExpertsConfig(FusionConfig):
    """A classifier for each modality; their log-probabilities are added, each with a weight that depends on the sample.

    A product of experts (Hinton 2002, doi 10.1162/089976602760128018) with learned weights. A modality alone has weight
    1, so towers that were trained alone (``task.without``) keep their predictions in a model that starts from them
    (``train.init_from: {audio: runs/audio, video: runs/video}``). It cannot represent classes that show only in how
    modalities combine; the other fusions can.
    """

    type: Literal["experts"]
    hidden: PositiveInt = 64
    """Width of the hidden layer that computes the weights."""


class TokensConfig(FusionConfig):
    """A fusion of tokens."""

    depth: PositiveInt = 2
    """Layers."""
    heads: PositiveInt = 4
    """Attention heads."""
    time: dict[str, Annotated[float, Field(gt=0)]] = {}
    """By tower, what one level-0 step is on a time axis that these towers share, in any one unit. Towers that are not
    named have no place on it."""

    @model_validator(mode="after")
    def _even(self) -> TokensConfig:
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError(f"dim {self.dim} over heads {self.heads} must be a whole, even number")
        return self


class CrossConfig(TokensConfig):
    """Tokens of each tower attend to those of all others."""

    type: Literal["cross_attention"]


class BottleneckConfig(TokensConfig):
    """Towers see each other through a few tokens alone, which all of them read and write (MBT, arXiv 2107.00135)."""

    type: Literal["bottleneck"]
    tokens: PositiveInt = 4
    """How many of them there are."""


class JointConfig(TokensConfig):
    """Tokens of all towers in one sequence, in which everything attends to everything."""

    type: Literal["joint"]


Fusion = Annotated[
    ConcatConfig | GatedConfig | ExpertsConfig | CrossConfig | BottleneckConfig | JointConfig,
    Field(discriminator="type"),
]
