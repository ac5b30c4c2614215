"""The configuration of a hierarchy: its levels, their groups, and the paths between levels."""

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
    """Groups of a fixed size: every ``stride`` consecutive tokens become one."""

    type: Literal["fixed"] = "fixed"
    stride: Extent
    """Tokens per group; on grids, cells along each axis."""

    @property
    def longest(self) -> int:
        """Tokens of the longest group; on one axis."""
        return _product(self.stride)


class GivenGroups(Component):
    """Groups whose boundaries come from the tokenizer or the data, such as words, sentences, phonemes or shots."""

    type: Literal["given"]
    boundary: str
    """Name of the boundary; each modality has its own."""
    max: PositiveInt | None = None
    """Maximum tokens of a group; longer ones are split. Unlimited by default."""
    typical: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = 1.0
    """Typical tokens per group, along each axis if there are several: the coordinate unit of the next level."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest group, where something bounds it."""
        return self.max

    @property
    def typical_tokens(self) -> float:
        """Typical tokens per group."""
        return math.prod(self.typical) if isinstance(self.typical, tuple) else self.typical


class LearnedGroups(Component):
    """Groups whose boundaries the model predicts. An offset of their log-odds controls how many there are."""

    type: Literal["learned"]
    target: Annotated[float, Field(gt=1)]
    """Target tokens per group."""
    max: PositiveInt
    """Maximum tokens of a group; longer ones are split."""
    signal: Literal["difference", "uncertainty"] = "difference"
    """What a boundary is. ``difference``: where a token is unlike the one before it, trained end to end (dynamic
    chunking of H-Net, arXiv 2507.07955). ``uncertainty``: before a token that the model expects to predict badly, for
    the first level of causal models that are trained on next tokens (after BLT, arXiv 2412.09871)."""
    weight: Annotated[float, Field(ge=0)] = 0.03
    """Weight of the ratio loss of H-Net. 0 also ends the control: the number of groups is left to ``supervise``."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Training steps over which the target rises from 2 tokens per group to ``target``. Groups stay short until the
    model has learned where boundaries help."""
    supervise: str | None = None
    """Name of a given boundary that the router is trained to predict, needed in training only. ``weight: 0`` leaves the
    number of groups to it."""
    supervision: PositiveFloat = 1.0
    """Weight of its binary cross-entropy."""
    smooth: bool = False
    """Smooth the unpooled stream of ``top_down`` with an EMA gated by boundary probability (H-Net eq. 5)."""

    @property
    def longest(self) -> int:
        """Tokens of the longest group."""
        return self.max

    @model_validator(mode="after")
    def _fits(self) -> LearnedGroups:
        if self.target > self.max:
            raise ValueError(f"target {self.target:g} is above max={self.max} tokens per group; raise max")
        if self.warmup and not self.weight:
            raise ValueError("warmup changes the target, which weight 0 disables; drop warmup")
        if self.supervise is None and self.supervision != type(self).model_fields["supervision"].default:
            raise ValueError("supervision has no effect without supervise; name a boundary there, or drop supervision")
        if self.signal == "uncertainty":
            # Its boundaries have no gradient, which all of these are about.
            for key in ("weight", "supervise", "smooth"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} trains boundaries, and those of signal: uncertainty are not; drop {key}")
        return self


Groups = Annotated[FixedGroups | GivenGroups | LearnedGroups, Field(discriminator="type")]


class Level(Component):
    """One level of a hierarchy: transformer blocks with an attention window, and the groups of the next level."""

    deprecated_keys: ClassVar[dict[str, str]] = {"reach": "window_type"}

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """What a token is: frames, words, patches."""
    dim: PositiveInt
    """Width of a token."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Transformer blocks."""
    heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention, arXiv 2305.13245); ``heads`` by default."""
    window: Extent | None = None
    """Attention window in tokens; on grids, in cells along each axis. Unlimited by default."""
    window_type: Literal["block", "shifted", "sliding"] = "block"
    """``block``: fixed blocks. ``shifted``: blocks shifted by half a window in every other layer (Swin, arXiv
    2103.14030). ``sliding``: ``window`` tokens to each side of every token, or before it in causal models."""
    group: Groups | None = None
    """How tokens are grouped for the next level; absent on the last level only."""
    pool: str = Field(default="mean", json_schema_extra={"enum": [*sorted(POOLINGS)]})
    """How a group is reduced to one token."""
    mlp_ratio: PositiveFloat = 8 / 3
    """Hidden width of the SwiGLU, relative to ``dim``."""
    decoder_depth: Annotated[int, Field(ge=0)] = 1
    """Blocks after the unpooled coarser level is added, with ``top_down``."""
    lr_scale: PositiveFloat = 1.0
    """Learning rate multiplier of the parameters of this level."""

    @field_validator("pool")
    @classmethod
    def _check_pool(cls, value: str) -> str:
        if value not in POOLINGS:
            raise ValueError(f"unknown pooling {value!r}; one of {', '.join(sorted(POOLINGS))}")
        return value

    @model_validator(mode="after")
    def _check_sizes(self) -> Level:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} of level {self.name!r} is not divisible by heads {self.heads}")
        if (self.dim // self.heads) % 2:
            raise ValueError(
                f"dim/heads of level {self.name!r} is {self.dim // self.heads}; rotary positions need it even"
            )
        if self.heads % (self.kv_heads or 1):
            raise ValueError(f"heads {self.heads} of level {self.name!r} is not divisible by kv_heads {self.kv_heads}")
        # Blocks without a window are the whole sample, so only the other types need one.
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
        # Multiples of 8 keep matrix products on tensor cores.
        return max(8, round(self.dim * self.mlp_ratio / 8) * 8)


class CrossScale(Component):
    """Gated attention between neighbouring levels after the bottom-up pass (arXiv 2509.20581)."""

    up: bool = False
    """Each coarse token attends to the tokens of its group."""
    down: bool = False
    """Each token attends to the coarser tokens of its sample, within their window."""


class HierarchyConfig(Component):
    """A hierarchy: levels from fine to coarse, and the paths between them."""

    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    """From fine to coarse."""
    cross_scale: CrossScale = CrossScale()
    top_down: bool = False
    """Unpool coarse levels to finer ones, add them and run the decoder blocks."""
    causal: bool = False
    """No output depends on later tokens, as in a language model."""
    rope_theta: PositiveFloat | None = None
    """Base of the rotary frequencies; by default 10000 on one axis and 100 on grids."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth (arXiv 1603.09382): probability of skipping a residual branch, rising over the blocks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the values that a residual branch adds."""
    reconstruction: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss of reconstructing each level from the coarser one."""
    alignment: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that aligns each level with the pooled level below it."""
    activation_checkpointing: bool = False
    """Recompute the blocks in the backward pass, to save memory."""
    backend: Literal["auto", "varlen", "flash_attn", "sdpa", "reference"] = "auto"
    """Attention backend. An explicit one raises an error where it does not support a call."""

    @model_validator(mode="after")
    def _check_levels(self) -> HierarchyConfig:
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
        # Settings without an effect are refused rather than ignored, here and below.
        if len(self.levels) == 1 and any(paths):
            raise ValueError(
                "top_down, cross_scale, alignment and reconstruction need two levels or more; drop them or add a level"
            )
        smooth = [level.name for level in self.levels if isinstance(level.group, LearnedGroups) and level.group.smooth]
        if smooth and not self.top_down:
            raise ValueError(
                f"group.smooth of level {smooth[0]!r} has no effect without top_down; set top_down or drop smooth"
            )
        for index, level in enumerate(self.levels):
            learned = isinstance(level.group, LearnedGroups) and level.group
            if learned and learned.signal == "uncertainty" and (index or not self.causal):
                raise ValueError(
                    f"group.signal of level {level.name!r} is uncertainty, which is about the next token of the first "
                    f"level in a causal model; take difference, or set it at level {names[0]!r} with causal: true"
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
        """Index of a level by name or index; the last level for ``None``.

        Raises:
            ConfigError: there is no such level.
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
    """One size per axis.

    Raises:
        ConfigError: the numbers of sizes and axes differ.
    """
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(sizes) != axes:
        raise ConfigError(
            f"{what} has {len(sizes)} sizes {sizes}, but the modality has {axes} axes; give one size or {axes}"
        )
    return sizes


def check_sizes(config: HierarchyConfig, axes: int) -> None:
    """Checks that sizes along several axes are given for grids only.

    Raises:
        ConfigError: a level that is not a grid has a window or stride of several sizes, or the typical size of given
            groups has another number of axes.
    """
    gridded = axes > 1  # until the first learned or given groups, whose tokens form no grid
    for level in config.levels:
        stride = level.group.stride if isinstance(level.group, FixedGroups) else None
        for what, size in (("window", level.window), ("stride", stride)):
            if not gridded and isinstance(size, tuple) and len(size) > 1:
                raise ConfigError(
                    f"{what} of level {level.name!r} has {len(size)} sizes {size}, but its tokens lie on one axis; "
                    "give one"
                )
        if isinstance(level.group, GivenGroups):
            typical = level.group.typical
            if isinstance(typical, tuple) and len(typical) != axes:
                raise ConfigError(
                    f"group.typical of level {level.name!r} has {len(typical)} sizes {typical}, but the modality has "
                    f"{axes} axes; give one size or {axes}"
                )
        gridded = gridded and isinstance(level.group, FixedGroups)


def blocks(config: HierarchyConfig, axes: int) -> tuple[tuple[int, ...], ...]:
    """Nested block sizes of the hierarchical order of grids, in level-0 cells, from small to large.

    Every fixed group and every window of every level that is a grid is one of these blocks, hence one run of cells.

    Raises:
        ConfigError: a window or stride does not nest with the others, or slides over a grid.
    """
    names: dict[tuple[int, ...], str] = {}  # what each block size comes from, for the message
    unit = (1,) * axes  # level-0 cells per cell of the current level
    for level in config.levels:
        if level.window is not None:
            if level.window_type != "block":
                raise ConfigError(
                    f"level {level.name!r}: window_type {level.window_type!r} is for 1-D tokens; grids take blocks"
                )
            sizes = extent(level.window, axes, f"window of level {level.name!r}")
            # The first origin of a size is kept, since one block serves all that need it.
            names.setdefault(_scaled(unit, sizes), f"window {sizes} of level {level.name!r}")
        # Groups of other kinds differ from sample to sample, so levels above them are no grids.
        if not isinstance(level.group, FixedGroups):
            break
        sizes = extent(level.group.stride, axes, f"stride of level {level.name!r}")
        unit = _scaled(unit, sizes)
        names.setdefault(unit, f"stride {sizes} of level {level.name!r}")
    # Each size must divide the next along every axis. Single cells need no block.
    chain = sorted(names, key=lambda sizes: (math.prod(sizes), sizes))
    for small, large in pairwise(chain):
        if any(b % a for a, b in zip(small, large, strict=True)):
            raise ConfigError(
                f"{names[large]} ({large} level-0 cells) is not a multiple of {names[small]} ({small} cells) along "
                "every axis; on grids windows and strides must nest"
            )
    return tuple(size for size in chain if math.prod(size) > 1)


def _product(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else math.prod(size)


def _scaled(unit: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a * b for a, b in zip(unit, sizes, strict=True))
