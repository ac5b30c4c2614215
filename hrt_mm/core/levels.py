"""The configuration of a hierarchy: its levels, how each one groups its tokens, and how neighbours talk."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from .component import Component
from .errors import ConfigError
from .pooling import POOLINGS

Extent = PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""A size along every axis, or one size for all axes."""


class FixedGroups(Component):
    """Groups of a fixed size: every ``stride`` neighbours become one token."""

    type: Literal["fixed"] = "fixed"
    stride: Extent
    """Tokens a group, or on grids cells along each axis."""

    @property
    def longest(self) -> int:
        """Tokens of the longest group; on one axis."""
        return _product(self.stride)


class GivenGroups(Component):
    """Groups whose starts the tokenizer or the data supplies: words, sentences, phonemes, shots."""

    type: Literal["given"]
    boundary: str
    """Name of the boundary, one of those that the modality gives."""
    max: PositiveInt | None = None
    """Longest group; longer ones are cut. No cap when absent."""
    typical: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = 1.0
    """Usual tokens a group, or on several axes how many along each; positions on the next level are counted in steps
    of it."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest group, where something bounds it."""
        return self.max

    @property
    def typical_tokens(self) -> float:
        """Usual tokens a group."""
        return math.prod(self.typical) if isinstance(self.typical, tuple) else self.typical


class LearnedGroups(Component):
    """Groups whose starts the model scores, trained end to end (dynamic chunking, arXiv 2507.07955)."""

    type: Literal["learned"]
    target: Annotated[float, Field(gt=1)]
    """Tokens a group that the ratio loss pulls towards."""
    max: PositiveInt
    """Longest group; a boundary is set wherever one would grow past it."""
    weight: Annotated[float, Field(ge=0)] = 0.03
    """Weight of the ratio loss."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Training steps over which the ratio loss moves from 2 tokens a group to ``target``: groups stay short until the
    model can tell what a boundary is worth."""
    supervise: str | None = None
    """Name of a boundary that groups learn to start at, where the data has its times; it is needed in training alone.
    ``weight: 0`` leaves the number of groups to it."""
    supervision: PositiveFloat = 1.0
    """Weight of the loss that teaches it, the cross-entropy of each token's chance to start a group."""
    smooth: bool = False
    """Mix what ``top_down`` brings back from a group with what came back from those before it, the more, the less sure
    the boundary between them is (H-Net's equation 5)."""

    @property
    def longest(self) -> int:
        """Tokens of the longest group."""
        return self.max

    @model_validator(mode="after")
    def _fits(self) -> LearnedGroups:
        if self.target > self.max:
            raise ValueError(f"target {self.target:g} tokens a group is longer than the cap max={self.max}; raise max")
        if self.warmup and not self.weight:
            raise ValueError("warmup moves the target of the ratio loss, and weight 0 leaves that out; drop warmup")
        if self.supervise is None and self.supervision != type(self).model_fields["supervision"].default:
            raise ValueError("supervision is the weight of what supervise teaches; name a boundary there, or drop it")
        return self


Groups = Annotated[FixedGroups | GivenGroups | LearnedGroups, Field(discriminator="type")]


class Level(Component):
    """One level of a hierarchy: transformer blocks within a reach, and the grouping that leads to the next level."""

    deprecated_keys: ClassVar[dict[str, str]] = {"reach": "window_type"}

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """A word of the modality: frames, words, patches."""
    dim: PositiveInt
    """Width of a token."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Transformer blocks."""
    heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); as many as ``heads`` when absent."""
    window: Extent | None = None
    """Tokens that attend to each other, or on grids cells along each axis; the whole sequence when absent."""
    window_type: Literal["block", "shifted", "sliding"] = "block"
    """How windows lie: fixed blocks; blocks moved by half a window in every other layer; or, centred on each token
    (behind it when causal), ``window`` tokens to each side."""
    group: Groups | None = None
    """How tokens are grouped for the next level; absent on the last level alone."""
    pool: str = Field(default="mean", json_schema_extra={"enum": [*sorted(POOLINGS)]})
    """How a group becomes one token."""
    mlp_ratio: PositiveFloat = 8 / 3
    """Hidden width of the SwiGLU, over ``dim``."""
    decoder_depth: Annotated[int, Field(ge=0)] = 1
    """Blocks after the coarser level came back, where ``top_down`` is on."""
    lr_scale: PositiveFloat = 1.0
    """Multiplier of the learning rate for this level's parameters."""

    @field_validator("pool")
    @classmethod
    def _known_pool(cls, value: str) -> str:
        if value not in POOLINGS:
            raise ValueError(f"unknown pooling {value!r}; one of {', '.join(sorted(POOLINGS))}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Level:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} of level {self.name!r} is not divisible by heads {self.heads}")
        if (self.dim // self.heads) % 2:
            raise ValueError(
                f"dim/heads of level {self.name!r} is {self.dim // self.heads}; rotary positions need it even"
            )
        if self.heads % (self.kv_heads or 1):
            raise ValueError(f"heads {self.heads} of level {self.name!r} is not divisible by kv_heads {self.kv_heads}")
        if self.window_type != "block" and self.window is None:
            raise ValueError(
                f"window_type {self.window_type!r} of level {self.name!r} needs a window; set window or "
                "drop window_type"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads

    @property
    def window_tokens(self) -> int | None:
        """The window in tokens, where there is one; on one axis."""
        return None if self.window is None else _product(self.window)

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the SwiGLU, a multiple of 8."""
        return max(8, round(self.dim * self.mlp_ratio / 8) * 8)


class CrossScale(Component):
    """Gated attention between neighbouring levels, after the bottom-up pass (arXiv 2509.20581)."""

    up: bool = False
    """Each coarse token attends to the tokens of its group."""
    down: bool = False
    """Each token attends to the coarser tokens of its sequence."""


class HierarchyConfig(Component):
    """A hierarchy: levels from fine to coarse, and what joins them."""

    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    """From fine to coarse."""
    cross_scale: CrossScale = CrossScale()
    top_down: bool = False
    """Bring the coarse levels back to the fine ones: unpool, add, decoder blocks."""
    causal: bool = False
    """No output at a token depends on a later one: the hierarchy is a language model."""
    rope_theta: PositiveFloat | None = None
    """Base of the rotary frequencies; 10000 on one axis and 100 on grids when absent."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: probability to skip a residual branch, rising linearly to this at the last block."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value that a residual branch adds: against learning little data by heart."""
    reconstruction: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that asks each level to give back the level under it."""
    alignment: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that keeps each level in step with the pooled level under it."""
    activation_checkpointing: bool = False
    """Recompute the blocks in the backward pass, to save memory."""
    backend: Literal["auto", "varlen", "flash_attn", "sdpa", "reference"] = "auto"
    """Attention backend; a forced one that cannot serve raises."""

    @model_validator(mode="after")
    def _levels_join(self) -> HierarchyConfig:
        names = [level.name for level in self.levels]
        if len(set(names)) != len(names):
            raise ValueError(f"level names must differ, got {', '.join(names)}")
        for level in self.levels[:-1]:
            if level.group is None:
                raise ValueError(f"level {level.name!r} is not the last and needs a group")
        if self.levels[-1].group is not None:
            raise ValueError(
                f"the last level {names[-1]!r} has a group but no level above it; drop the group or add one"
            )
        paths = (self.top_down, self.cross_scale.up, self.cross_scale.down, self.alignment, self.reconstruction)
        if len(self.levels) == 1 and any(paths):
            raise ValueError(
                "top_down, cross_scale, alignment and reconstruction join levels, and there is only one; drop them or "
                "add a level"
            )
        smooth = [level.name for level in self.levels if isinstance(level.group, LearnedGroups) and level.group.smooth]
        if smooth and not self.top_down:
            raise ValueError(
                f"group.smooth of level {smooth[0]!r} has no effect without top_down, which brings groups back; set "
                "top_down or drop smooth"
            )
        if self.causal:
            for level in self.levels:
                if level.window is not None and level.window_type != "sliding":
                    raise ValueError(
                        f"level {level.name!r} is causal with window_type {level.window_type!r}: the first token of "
                        "a block would see nothing before it; use window_type: sliding"
                    )
        return self

    def index(self, name: str | int | None) -> int:
        """Position of a level by name; the last one for ``None``.

        Raises:
            ConfigError: no level has that name.
        """
        if name is None:
            return len(self.levels) - 1
        names = [level.name for level in self.levels]
        if isinstance(name, int):
            if not -len(names) <= name < len(names):
                raise ConfigError(f"level {name} is out of range; there are {len(names)}: {', '.join(names)}")
            return name % len(names)
        if name not in names:
            raise ConfigError(f"unknown level {name!r}; one of {', '.join(names)}")
        return names.index(name)


def extent(value: int | tuple[int, ...], axes: int, what: str) -> tuple[int, ...]:
    """A size along each axis.

    Raises:
        ConfigError: as many sizes were given as there are not axes.
    """
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(sizes) != axes:
        raise ConfigError(
            f"{what} has {len(sizes)} sizes {sizes}, but the modality has {axes} axes; give one size or {axes}"
        )
    return sizes


def check_sizes(config: HierarchyConfig, axes: int) -> None:
    """Sizes along several axes are for grids. After learned or given groups there is no grid any more.

    Raises:
        ConfigError: a level that is no grid has a window or stride of several sizes, or given groups have a typical
            size of another number of axes.
    """
    gridded = axes > 1
    for level in config.levels:
        stride = level.group.stride if isinstance(level.group, FixedGroups) else None
        for what, size in (("window", level.window), ("stride", stride)):
            if not gridded and isinstance(size, tuple) and len(size) > 1:
                raise ConfigError(
                    f"{what} of level {level.name!r} has {len(size)} sizes {size}, but its tokens lie on one axis; "
                    "give one"
                )
        if isinstance(level.group, GivenGroups):
            _check_typical(level.group.typical, level.name, axes)
        gridded = gridded and isinstance(level.group, FixedGroups)


def _check_typical(typical: float | tuple[float, ...], name: str, axes: int) -> None:
    if isinstance(typical, tuple) and len(typical) != axes:
        raise ConfigError(
            f"group.typical of level {name!r} has {len(typical)} sizes {typical}, but the modality has {axes} axes; "
            f"give one size or {axes}"
        )


def blocks(config: HierarchyConfig, axes: int) -> tuple[tuple[int, ...], ...]:
    """The nested blocks that grids of ``axes`` axes are ordered by, in level-0 cells, from small to large.

    Every fixed group and every window, at every level that is still a grid, is one of them.

    Raises:
        ConfigError: a window or stride does not nest with the others, or slides over a grid.
    """
    found: dict[tuple[int, ...], str] = {}
    step = (1,) * axes
    for level in config.levels:
        if level.window is not None:
            if level.window_type != "block":
                raise ConfigError(
                    f"level {level.name!r}: window_type {level.window_type!r} is for 1-D tokens; grids take blocks"
                )
            sizes = extent(level.window, axes, f"window of level {level.name!r}")
            found.setdefault(_scaled(step, sizes), f"window {sizes} of level {level.name!r}")
        if not isinstance(level.group, FixedGroups):
            break
        sizes = extent(level.group.stride, axes, f"stride of level {level.name!r}")
        step = _scaled(step, sizes)
        found.setdefault(step, f"stride {sizes} of level {level.name!r}")
    chain = sorted(found, key=lambda sizes: (math.prod(sizes), sizes))
    for small, large in pairwise(chain):
        if any(b % a for a, b in zip(small, large, strict=True)):
            raise ConfigError(
                f"{found[large]} ({large} level-0 cells) is not a multiple of {found[small]} ({small} cells) along "
                "every axis; on grids windows and strides must nest"
            )
    return tuple(size for size in chain if math.prod(size) > 1)


def _product(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else math.prod(size)


def _scaled(step: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(step, sizes, strict=True))
