"""What a hierarchy costs, level by level, beside the flat transformer of equal parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ...core.errors import ConfigError
from ...core.levels import FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level, extent
from ...core.tokens import Tokens
from ..control import flat_control
from .caching import Kept, cache_elements
from .flops import forward_flops
from .layout import lay_out, on_meta
from .memory import kept_elements
from .table import count, flops, size, table

BYTES = 4
"""Of a float32."""


@dataclass(frozen=True)
class DescriptionRow:
    """A level's share of the cost of one sample.

    Args:
        name: of the level.
        tokens: of the sample at this level.
        dim: width of a token.
        depth: blocks, on both ways.
        window: how far a token attends, in words.
        groups: how tokens become the next level's, in words.
        parameters: trained numbers.
        forward_flops: of one forward pass.
        step_flops: of one training step.
        kept_bytes: activations in float32 that a training step keeps for its backward pass.
    """

    name: str
    tokens: int
    dim: int
    depth: int
    window: str
    groups: str
    parameters: int
    forward_flops: int
    step_flops: int
    kept_bytes: int

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        costs = (flops(self.forward_flops), flops(self.step_flops), size(self.kept_bytes))
        sizes = (count(self.tokens), str(self.dim), str(self.depth))
        return (self.name, *sizes, self.window, self.groups, count(self.parameters), *costs)


@dataclass(frozen=True)
class Description:
    """The rows of a hierarchy, and its flat control.

    Args:
        rows: one a level.
        flat: the flat transformer of equal parameters over the same level-0 tokens; ``None`` where there is none.
        warnings: what about the configuration costs more than it needs to.
        cache: elements that decoding keeps; ``None`` for models that do not decode.
        flat_cache: those of the flat transformer.
    """

    rows: tuple[DescriptionRow, ...]
    flat: DescriptionRow | None
    warnings: tuple[str, ...]
    cache: Kept | None = None
    flat_cache: Kept | None = None

    @cached_property
    def total(self) -> DescriptionRow:
        """The sums over the levels."""
        return DescriptionRow(
            name="total",
            tokens=sum(row.tokens for row in self.rows),
            dim=0,
            depth=sum(row.depth for row in self.rows),
            window="",
            groups="",
            parameters=sum(row.parameters for row in self.rows),
            forward_flops=sum(row.forward_flops for row in self.rows),
            step_flops=sum(row.step_flops for row in self.rows),
            kept_bytes=sum(row.kept_bytes for row in self.rows),
        )

    def text(self) -> str:
        """All of it for a terminal."""
        footers = [_without_width(self.total)]
        if self.flat is not None:
            pairs = [
                (getattr(self.flat, name), getattr(self.total, name))
                for name in ("parameters", "forward_flops", "step_flops", "kept_bytes")
            ]
            ratios = ("flat / total", "", "", "", "", "", *(f"{a / b:.2f}x" if b else "" for a, b in pairs))
            footers += [self.flat.cells(), ratios]
        lines = [table((row.cells() for row in self.rows), footers), "", *_NOTES]
        if self.flat is None:
            lines.append("No flat transformer of equal parameters and depth exists; the comparison is left out.")
        if self.cache is not None:
            flat = "" if self.flat_cache is None else f"; the flat transformer, {_kept(self.flat_cache)}"
            lines.append(f"Decoding keeps, in float32, {_kept(self.cache)}{flat}.")
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


_NOTES = (
    "One sample. FLOPs: a forward pass, matrix products and attention by formula; a training step is taken as three.",
    "Memory: activations in float32 that a training step keeps for its backward pass, by formula. Embedding and head",
    "are the same for both and are not counted.",
)


def describe_model(config: HierarchyConfig, tokens: Tokens) -> Description:
    """The cost of a hierarchy on a sample, and of its flat control.

    Args:
        config: the hierarchy.
        tokens: one sample; its features are not read.
    """
    rows, cache = _rows(config, tokens)
    flat, flat_cache = None, None
    if len(config.levels) > 1:
        try:
            (flat,), flat_cache = _rows(flat_control(config, tokens.axes), tokens, name="flat")
        except ConfigError:
            flat = None
    return Description(tuple(rows), flat, tuple(warnings(config)), cache, flat_cache)


def warnings(config: HierarchyConfig) -> list[str]:
    """What makes a hierarchy's cost grow with the square of its finest tokens."""
    if len(config.levels) == 1 or config.levels[0].window is not None:
        return []
    first = config.levels[0].name
    if all(level.window is None for level in config.levels):
        which = "every level attends globally"
    elif config.levels[0].depth or config.top_down:
        which = f"level {first!r}, the finest, attends globally"
    else:
        return []
    return [f"{which}, so the cost still grows with the square of the tokens; set window on level {first!r}"]


def _rows(config: HierarchyConfig, tokens: Tokens, name: str | None = None) -> tuple[list[DescriptionRow], Kept | None]:
    hierarchy = on_meta(config, tokens.axes)
    levels = lay_out(hierarchy, tokens)
    parameters = [0] * len(levels)
    owners = hierarchy.parameter_levels()
    for parameter_name, parameter in hierarchy.named_parameters():
        parameters[owners[parameter_name]] += parameter.numel()
    kept_by_level = kept_elements(hierarchy, levels)
    rows = []
    for index, (level, cost) in enumerate(zip(levels, forward_flops(hierarchy, levels), strict=True)):
        settings = config.levels[index]
        recomputed = cost.blocks if config.activation_checkpointing else 0
        rows.append(
            DescriptionRow(
                name or settings.name,
                level.tokens,
                settings.dim,
                settings.depth + (settings.decoder_depth if config.top_down and level.groups else 0),
                _window(settings, tokens.axes if level.plan.grid is not None else 1),
                _groups(settings, tokens.axes if level.plan.grid is not None else 1),
                parameters[index],
                cost.total,
                3 * cost.total + recomputed,
                BYTES * kept_by_level[index],
            )
        )
    return rows, cache_elements(hierarchy, levels)


def _kept(cache: Kept) -> str:
    return f"{size(round(BYTES * cache.per_token))} for each token and {size(BYTES * cache.constant)} besides"


def _window(level: Level, axes: int) -> str:
    if level.window is None:
        return "global"
    if axes == 1:
        return f"{level.window_type} {level.window}"
    return f"{level.window_type} {_sizes(extent(level.window, axes, 'window'))}"


def _groups(level: Level, axes: int) -> str:
    group = level.group
    if group is None:
        return "-"
    if isinstance(group, FixedGroups):
        size = _sizes(extent(group.stride, axes, "stride")) if axes > 1 else str(group.stride)
        return f"{size}, {level.pool}"
    if isinstance(group, GivenGroups):
        return f"{group.boundary}, {level.pool}"
    assert isinstance(group, LearnedGroups)
    return f"learned ~{group.target:g}, {level.pool}"


def _sizes(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _without_width(total: DescriptionRow) -> tuple[str, ...]:
    cells = total.cells()
    return (*cells[:2], "", *cells[3:])
