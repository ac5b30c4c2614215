"""The hierarchy: blocks and pooling from fine to coarse, then what the coarse levels know back down and up.

Shapes: T tokens of a level, D its width, C axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from .block import Block
from .cross_scale import CausalDown, CrossAttention
from .errors import ConfigError, UserError
from .levels import HierarchyConfig, Level, blocks, check_sizes
from .norm import rms_norm
from .plan import Groups, LevelPlan
from .pyramid import Pyramid
from .rope import Rotary
from .tokens import Tokens
from .transition import TopDown, Transition

if TYPE_CHECKING:
    from .causal.keys import KeyValues
    from .causal.new_tokens import NewTokens


@dataclass
class _State:
    """A level of a batch while it is computed."""

    x_TD: Tensor
    plan: LevelPlan
    groups: Groups | None = None
    confidence_T1: Tensor | None = None
    prob_G: Tensor | None = None

    def scale_by_confidence(self, back_TD: Tensor) -> Tensor:
        """What comes back from the next level, so that its gradient tells learned groups how good they are."""
        return back_TD if self.confidence_T1 is None else back_TD * self.confidence_T1.to(back_TD.dtype)


@dataclass
class _Record:
    """What is collected on the way."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


class Stage(nn.Module):
    """The blocks of a level: on the way up, and on the way down where there is one."""

    def __init__(self, config: HierarchyConfig, index: int, axes: int, theta: float, drops: list[float]) -> None:
        super().__init__()
        self.level = level = config.levels[index]
        self.causal = config.causal
        self.encoder = nn.ModuleList(self._block(config, level, drop) for drop in drops)
        depth = level.decoder_depth if config.top_down and index + 1 < len(config.levels) else 0
        self.decoder = nn.ModuleList(self._block(config, level, config.drop_path) for _ in range(depth))
        self.rotary = Rotary(level.head_dim, axes, theta)

    @staticmethod
    def _block(config: HierarchyConfig, level: Level, drop: float) -> Block:
        return Block(
            level,
            drop_path=drop,
            dropout=config.dropout,
            backend=config.backend,
            checkpointed=config.activation_checkpointing,
        )

    def forward(self, x_TD: Tensor, plan: LevelPlan, part: Literal["encoder", "decoder"] = "encoder") -> Tensor:
        """Runs the blocks of one of the two ways."""
        layers = self.encoder if part == "encoder" else self.decoder
        if not len(layers):
            return x_TD
        layer_spans, rope = plan.layer_spans(len(layers)), self.rotary.rotations(plan.coords_TC, plan.unit_C, x_TD)
        for block, spans in zip(layers, layer_spans, strict=True):
            x_TD = block(x_TD, spans, rope, samples=plan.samples, window=plan.sliding_window, causal=self.causal)
        return x_TD

    def attend_to(
        self,
        x_ND: Tensor,
        rope: Tensor,
        memories: Sequence[KeyValues],
        new: NewTokens,
        part: Literal["encoder", "decoder"],
    ) -> Tensor:
        """Runs the blocks of one of the two ways over new tokens of a causal model.

        Args:
            x_ND: the tokens.
            rope: rotary tables of them.
            memories: of each block, keys and values of the tokens before.
            new: the samples of the new tokens.
            part: the way.
        """
        for block, memory in zip(self.encoder if part == "encoder" else self.decoder, memories, strict=True):
            assert isinstance(block, Block)
            x_ND = block.attend_to(x_ND, rope, memory, new)
        return x_ND


class Hierarchy(nn.Module):
    """A Hierarchical Resolution Transformer over packed tokens of any modality.

    Bottom-up, each level runs its blocks within its reach and pools its groups into the next level. Then, where the
    configuration asks for it, the coarse levels come back down (``cross_scale.down``, ``top_down``), and at last each
    level looks at the groups under it once more (``cross_scale.up``).

    Args:
        config: levels, and what joins them.
        axes: axes of the tokens' coordinates: 1 for text and audio, 2 for images, 3 for video.

    Raises:
        ConfigError: windows and strides do not nest on the modality's grid.
    """

    def __init__(self, config: HierarchyConfig, axes: int = 1) -> None:
        super().__init__()
        self.config, self.axes = config, axes
        check_sizes(config, axes)
        self.blocks = blocks(config, axes) if axes > 1 else ()
        theta = config.rope_theta or (10000.0 if axes == 1 else 100.0)
        levels = config.levels
        last = max(1, sum(level.depth for level in levels) - 1)
        drops = [config.drop_path * layer / last for layer in range(last + 1)]
        self.stages = nn.ModuleList()
        for index, level in enumerate(levels):
            self.stages.append(Stage(config, index, axes, theta, drops[: level.depth]))
            drops = drops[level.depth :]
        pairs = range(len(levels) - 1)
        self.transitions = nn.ModuleList(Transition(config, index, axes, theta) for index in pairs)
        self.top_down = nn.ModuleList(TopDown(self._transition(index)) for index in pairs if config.top_down)
        self.down = nn.ModuleList(
            self._cross(index, axes, theta, up=False) for index in pairs if config.cross_scale.down
        )
        self.up = nn.ModuleList(self._cross(index, axes, theta, up=True) for index in pairs if config.cross_scale.up)
        self.measure_contributions = False
        if next(self.parameters(), None) is None:
            # One level without blocks. It still has a device and a precision.
            self.register_buffer("nothing", torch.empty(0), persistent=False)

    @property
    def like(self) -> Tensor:
        """A tensor of the device and the precision of its weights."""
        parameter = next(self.parameters(), None)
        return parameter.detach() if parameter is not None else self.get_buffer("nothing")

    def _transition(self, index: int) -> Transition:
        found = self.transitions[index]
        assert isinstance(found, Transition)
        return found

    def _cross(self, index: int, axes: int, theta: float, *, up: bool) -> CrossAttention:
        fine, coarse = self.config.levels[index], self.config.levels[index + 1]
        asks, source = (coarse, fine) if up else (fine, coarse)
        shape = (asks.dim, source.dim, asks.heads, axes, theta, self.config.backend)
        if self.config.causal and not up:
            return CausalDown(*shape, inclusive=self._transition(index).inclusive)
        return CrossAttention(*shape)

    def forward(self, tokens: Tokens) -> Pyramid:
        """Runs the hierarchy.

        Args:
            tokens: (T, D) features with D the width of the first level; grids in the order of ``self.blocks``.

        Returns:
            The tokens of every level.

        Raises:
            UserError: the tokens do not fit: width, axes, grids or boundaries.
        """
        self.check(tokens)
        record = _Record()
        states = self._bottom_up(tokens, record)
        if self.config.top_down or self.config.cross_scale.down:
            for index in reversed(range(len(states) - 1)):
                self._descend(index, states, record)
        if self.config.cross_scale.up:
            for index in range(len(states) - 1):
                self._ascend(index, states, record)
        self._auxiliary(states, record)
        return self._pyramid(tokens, states, record)

    def check(self, tokens: Tokens) -> None:
        """Checks that tokens fit.

        Raises:
            UserError: they have another width or other axes.
        """
        first = self.config.levels[0]
        if tokens.x.ndim != 2 or tokens.x.shape[1] != first.dim:
            raise UserError(
                f"level {first.name!r} takes (T, {first.dim}) tokens, not {tuple(tokens.x.shape)}; embed them first"
            )
        if tokens.axes != self.axes:
            raise UserError(f"the hierarchy was built for {self.axes} axes, the tokens have {tokens.axes}")

    def _bottom_up(self, tokens: Tokens, record: _Record) -> list[_State]:
        plan = LevelPlan.of(tokens, self.config.levels[0], self.blocks)
        states = [_State(self.stages[0](tokens.x, plan), plan)]
        for stage, transition in zip(self.stages[1:], self.transitions, strict=True):
            pooled = transition(states[-1].x_TD, states[-1].plan)
            states[-1].groups = pooled.groups
            states[-1].confidence_T1, states[-1].prob_G = pooled.confidence_T1, pooled.prob_G
            record.losses |= pooled.losses
            record.stats |= pooled.stats
            states.append(_State(stage(pooled.x_GE, pooled.plan), pooled.plan))
        return states

    def _descend(self, index: int, states: list[_State], record: _Record) -> None:
        fine, coarse = states[index], states[index + 1]
        assert fine.groups is not None
        if self.config.cross_scale.down:
            look_TD = fine.scale_by_confidence(self._look_up(index, fine, coarse))
            self._add(fine, look_TD, f"down/{fine.plan.level.name}", record)
        if self.config.top_down:
            pooling = self._transition(index).pooling
            back_TD = self.top_down[index](coarse.x_TD, fine.groups, pooling, fine.prob_G)
            self._add(fine, fine.scale_by_confidence(back_TD), f"top_down/{fine.plan.level.name}", record)
            fine.x_TD = self.stages[index](fine.x_TD, fine.plan, "decoder")

    def _look_up(self, index: int, fine: _State, coarse: _State) -> Tensor:
        """Each fine token asks the coarse tokens within the coarse level's reach."""
        down, groups = self.down[index], fine.groups
        assert groups is not None
        if isinstance(down, CausalDown):
            return down.staircase(
                fine.x_TD,
                fine.plan.coords_TC,
                groups.spans,
                coarse.x_TD,
                coarse.plan.coords_TC,
                groups.samples,
                fine.plan.unit_C,
                fine.plan.origin_BC,
                window=coarse.plan.sliding_window,
            )
        assert isinstance(down, CrossAttention)
        k_spans = coarse.plan.cross_scale_spans()
        q_spans = groups.spans.merge(k_spans)
        return down.within(
            fine.x_TD, fine.plan.coords_TC, q_spans, coarse.x_TD, coarse.plan.coords_TC, k_spans, fine.plan.unit_C
        )

    def _ascend(self, index: int, states: list[_State], record: _Record) -> None:
        """Each coarse token asks the tokens of its group."""
        fine, coarse, up = states[index], states[index + 1], self.up[index]
        assert isinstance(up, CrossAttention) and fine.groups is not None
        spans = fine.groups.spans
        look_TD = up.within(
            coarse.x_TD,
            coarse.plan.coords_TC,
            spans.singletons,
            fine.x_TD,
            fine.plan.coords_TC,
            spans,
            fine.plan.unit_C,
        )
        self._add(coarse, look_TD, f"up/{coarse.plan.level.name}", record)

    def _add(self, state: _State, branch_TD: Tensor, name: str, record: _Record) -> None:
        if self.measure_contributions:
            share = branch_TD.float().norm() / state.x_TD.float().norm().clamp(min=1e-12)
            record.stats[f"contribution/{name}"] = share.detach()
        state.x_TD = state.x_TD + branch_TD

    def _auxiliary(self, states: list[_State], record: _Record) -> None:
        if not (self.config.alignment or self.config.reconstruction):
            return
        for index, fine in enumerate(states[:-1]):
            assert fine.groups is not None
            record.losses |= self._transition(index).losses(fine.x_TD, states[index + 1].x_TD, fine.groups)

    def _pyramid(self, tokens: Tokens, states: list[_State], record: _Record) -> Pyramid:
        names = tuple(level.name for level in self.config.levels)
        found, order = {}, {}
        for name, state in zip(names, states, strict=True):
            normed_TD = rms_norm(state.x_TD)
            grid = state.plan.grid
            found[name] = replace(
                tokens,
                x=normed_TD,
                spans=state.plan.samples,
                coords_TC=state.plan.coords_TC,
                grids=grid.shapes if grid is not None else None,
                boundaries=state.plan.boundaries,
            )
            order[name] = grid.blocks if grid is not None else ()
        groups = {name: state.groups.spans for name, state in zip(names, states, strict=True) if state.groups}
        return Pyramid(names, found, groups, order, record.losses, record.stats)

    def parameter_levels(self) -> dict[str, int]:
        """By parameter name, the place of the level that it belongs to."""
        found = {}
        for name, _ in self.named_parameters():
            part, index = name.split(".")[:2]
            found[name] = int(index) + (part == "up")
        return found

    @property
    def feature_info(self) -> list[dict[str, object]]:
        """Channels and reduction of each level, in timm's convention."""
        found: list[dict[str, object]] = []
        reduction = 1.0
        for index, level in enumerate(self.config.levels):
            found.append({"num_chs": level.dim, "reduction": reduction, "module": f"stages.{index}"})
            if index < len(self.transitions):
                reduction *= self._transition(index).stride[0]
        return found

    def forward_intermediates(
        self,
        tokens: Tokens,
        indices: int | list[int] | None = None,
        *,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Pyramid, list[Tensor]]:
        """Feature maps of levels, in timm's convention, for grids of any number of axes.

        Args:
            tokens: as for :meth:`forward`; all samples of one shape.
            indices: places of the levels; the last n for an int; all when absent.
            output_fmt: channels first and cells along their axes, or (B, cells, D).
            intermediates_only: leave the pyramid out.

        Returns:
            (B, D, ...) maps, after the pyramid unless left out.

        Raises:
            UserError: the samples differ in shape; use ``Pyramid.maps`` for a list of maps.
            ConfigError: no such level.
        """
        pyramid = self(tokens)
        every = list(range(len(self.stages)))
        if isinstance(indices, int) and not 1 <= indices <= len(every):
            raise ConfigError(
                f"asked for the last {indices} levels, but there are {len(every)}; give 1 to {len(every)}, or a list"
            )
        chosen = every if indices is None else every[-indices:] if isinstance(indices, int) else indices
        found = [self._stacked(pyramid, self.config.index(index)) for index in chosen]
        if output_fmt == "NLC":
            found = [rearrange(stack, "n c ... -> n (...) c") for stack in found]
        elif output_fmt != "NCHW":
            raise ConfigError(f"unknown output_fmt {output_fmt!r}; one of NCHW, NLC")
        return found if intermediates_only else (pyramid, found)

    @staticmethod
    def _stacked(pyramid: Pyramid, index: int) -> Tensor:
        maps = pyramid.maps(index)
        shapes = {tuple(one.shape) for one in maps}
        if len(shapes) > 1:
            raise UserError(
                f"level {pyramid.names[index]!r} has maps of different shapes {sorted(shapes)[:3]}; use Pyramid.maps()"
            )
        return torch.stack(maps)


class Transformer(Hierarchy):
    """The flat control: a hierarchy of one level, made of the same blocks."""

    def __init__(self, level: Level, axes: int = 1, *, causal: bool = False, drop_path: float = 0.0) -> None:
        super().__init__(HierarchyConfig(levels=(level,), causal=causal, drop_path=drop_path), axes)
