"""The hierarchy: blocks and pooling from fine to coarse, then the top-down and cross-scale paths between levels.

Shapes: T tokens of a level, D its width, C axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from einops import rearrange
from pydantic import ValidationError
from torch import Tensor, nn

from .block import Block
from .cross_scale import CausalDown, CrossAttention
from .errors import ConfigError, UserError
from .levels import HierarchyConfig, Level, blocks, check_sizes
from .modules import TypedModuleList
from .norm import rms_norm
from .plan import Groups, LevelPlan
from .pyramid import Pyramid
from .rope import Rotary
from .routing import Routing
from .source import Read, SourceMemory
from .tokens import Tokens
from .transition import TopDown, Transition
from .uncertainty import UncertaintyRouter


@dataclass
class _State:
    """A level of a batch during the forward pass."""

    x_TD: Tensor
    plan: LevelPlan
    reads: Sequence[Read] | None = None
    groups: Groups | None = None
    confidence_T1: Tensor | None = None
    prob_G: Tensor | None = None
    routing: Routing | None = None

    def scale_by_confidence(self, unpooled_TD: Tensor) -> Tensor:
        """Multiplies values from the next level by 1, with the gradient of the routing decisions (learned groups)."""
        return unpooled_TD if self.confidence_T1 is None else unpooled_TD * self.confidence_T1.to(unpooled_TD.dtype)


@dataclass
class _Record:
    """Losses and statistics collected during the forward pass."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


class Stage(nn.Module):
    """The blocks of a level: encoder blocks, and decoder blocks if there is a top-down path."""

    encoder: TypedModuleList[Block]
    decoder: TypedModuleList[Block]

    def __init__(self, config: HierarchyConfig, index: int, axes: int, theta: float, drops: list[float]) -> None:
        super().__init__()
        self.level = level = config.levels[index]
        self.causal = config.causal
        self.encoder = TypedModuleList(self._block(config, level, drop) for drop in drops)
        # Decoder blocks mix in what came down, and nothing comes down to the coarsest level.
        depth = level.decoder_depth if config.top_down and index + 1 < len(config.levels) else 0
        self.decoder = TypedModuleList(self._block(config, level, config.drop_path) for _ in range(depth))
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

    def forward(
        self,
        x_TD: Tensor,
        plan: LevelPlan,
        stack: Literal["encoder", "decoder"] = "encoder",
        reads: Sequence[Read] | None = None,
    ) -> Tensor:
        """Runs the encoder or the decoder blocks, (T, D).

        Args:
            x_TD: tokens.
            plan: of the level.
            stack: which blocks.
            reads: attention of all blocks of the level to a source, encoder blocks first.
        """
        layers = self.encoder if stack == "encoder" else self.decoder
        if not len(layers):
            return x_TD
        branches = self.stack_reads(reads, stack)
        # Rotations depend on coordinates alone, so all layers share them.
        layer_spans, rope = plan.layer_spans(len(layers)), self.rotary.rotations(plan.coords_TC, plan.unit_C, x_TD)
        for block, spans, read in zip(layers, layer_spans, branches, strict=True):
            x_TD = block(
                x_TD, spans, rope, samples=plan.samples, window=plan.sliding_window, causal=self.causal, read=read
            )
        return x_TD

    def stack_reads(self, reads: Sequence[Read] | None, stack: Literal["encoder", "decoder"]) -> Sequence[Read | None]:
        """The attention of the blocks of a stack to a source, of those of the whole level."""
        first, count = (0, len(self.encoder)) if stack == "encoder" else (len(self.encoder), len(self.decoder))
        return [None] * count if reads is None else reads[first : first + count]


class Hierarchy(nn.Module):
    """A Hierarchical Resolution Transformer over packed tokens of any modality.

    Bottom-up, each level runs its blocks and pools its groups into the tokens of the next level. If configured, coarse
    levels are then brought back to finer ones (``cross_scale.down``, ``top_down``), and finally each level attends to
    the tokens of its groups (``cross_scale.up``).

    Args:
        config: levels, and the paths between them; also as plain data, such as of JSON.
        axes: number of coordinate axes: 1 for text and audio, 2 for images, 3 for video.

    Raises:
        ConfigError: windows and strides do not nest on grids with these axes, or plain data is no configuration.
    """

    stages: TypedModuleList[Stage]
    transitions: TypedModuleList[Transition]
    top_down: TypedModuleList[TopDown]
    down: TypedModuleList[CrossAttention]
    up: TypedModuleList[CrossAttention]

    def __init__(self, config: HierarchyConfig | dict[str, Any], axes: int = 1) -> None:
        super().__init__()
        if isinstance(config, dict):
            # The mixin of huggingface_hub stores an argument named config together with the others.
            axes = config.get("axes", axes)
            config = _of_plain({key: value for key, value in config.items() if key != "axes"})
        self.config, self.axes = config, axes
        check_sizes(config, axes)
        self.blocks = blocks(config, axes) if axes > 1 else ()
        # Grids have few cells along each axis, hence the smaller base.
        theta = config.rope_theta or (10000.0 if axes == 1 else 100.0)
        levels = config.levels
        # Stochastic depth rises linearly over the encoder blocks of all levels.
        last = max(1, sum(level.depth for level in levels) - 1)
        drops = [config.drop_path * layer / last for layer in range(last + 1)]
        self.stages = TypedModuleList()
        for index, level in enumerate(levels):
            self.stages.append(Stage(config, index, axes, theta, drops[: level.depth]))
            drops = drops[level.depth :]
        pairs = range(len(levels) - 1)
        self.transitions = TypedModuleList(Transition(config, index, axes, theta) for index in pairs)
        self.top_down = TypedModuleList(TopDown(self.transitions[index]) for index in pairs if config.top_down)
        self.down = TypedModuleList(
            self._cross(index, axes, theta, up=False) for index in pairs if config.cross_scale.down
        )
        self.up = TypedModuleList(self._cross(index, axes, theta, up=True) for index in pairs if config.cross_scale.up)
        self.measure_contributions = False
        if next(self.parameters(), None) is None:
            # A single level without blocks has no parameter to tell its device and dtype.
            self.register_buffer("nothing", torch.empty(0), persistent=False)

    @property
    def like(self) -> Tensor:
        """A tensor with the device and the dtype of the weights."""
        parameter = next(self.parameters(), None)
        return parameter.detach() if parameter is not None else self.get_buffer("nothing")

    @property
    def reads_coarser(self) -> bool:
        """Whether fine levels depend on coarser ones."""
        return self.config.top_down or self.config.cross_scale.down

    def _cross(self, index: int, axes: int, theta: float, *, up: bool) -> CrossAttention:
        fine, coarse = self.config.levels[index], self.config.levels[index + 1]
        query_level, kv_level = (coarse, fine) if up else (fine, coarse)
        shape = (query_level.dim, kv_level.dim, query_level.heads, axes, theta, self.config.backend)
        # Up needs no mask in causal mode: a coarse token may see its whole group, which has ended by then.
        if self.config.causal and not up:
            return CausalDown(*shape, inclusive=self.transitions[index].inclusive)
        return CrossAttention(*shape)

    def forward(self, tokens: Tokens, *, levels: int | None = None, source: SourceMemory | None = None) -> Pyramid:
        """Runs the hierarchy.

        Args:
            tokens: (T, D) features of the width of the first level; grids in the hierarchical order of ``self.blocks``.
            levels: compute the first ones only, which is possible if no path leads down from the others
                (:attr:`reads_coarser`); all by default.
            source: what blocks read of another hierarchy, of as many samples.

        Returns:
            The tokens of every level.

        Raises:
            UserError: the width, axes, grids or boundaries of the tokens do not fit.
            ConfigError: there are fewer levels, or the first ones depend on the others.
        """
        self.check(tokens)
        if levels is not None and not (1 <= levels <= len(self.stages)):
            raise ConfigError(f"levels is {levels}, but there are {len(self.stages)}; give 1 to {len(self.stages)}")
        if levels not in (None, len(self.stages)) and self.reads_coarser:
            raise ConfigError(
                f"the first {levels} levels depend on coarser ones through top_down or cross_scale.down; compute all"
            )
        record = _Record()
        states = self._bottom_up(tokens, record, levels, source)
        # Down before up, so that coarse levels also receive what fine levels computed on the way down.
        if self.reads_coarser:
            for index in reversed(range(len(states) - 1)):
                self._descend(index, states, record)
        if self.config.cross_scale.up:
            for index in range(len(states) - 1):
                self._ascend(index, states, record)
        # These compare final tokens, so they wait for all passes.
        if (self.config.alignment or self.config.reconstruction) and not torch.compiler.is_exporting():
            # There are fewer states than transitions where not all levels are computed.
            for transition, fine, coarse in zip(self.transitions, states, states[1:], strict=False):
                assert fine.groups is not None
                record.losses |= transition.losses(fine.x_TD, coarse.x_TD, fine.groups)
        return self._pyramid(tokens, states, record)

    def check(self, tokens: Tokens) -> None:
        """Checks that tokens fit the hierarchy.

        Raises:
            UserError: their width or number of axes differs.
        """
        first = self.config.levels[0]
        if tokens.x.ndim != 2 or tokens.x.shape[1] != first.dim:
            raise UserError(
                f"level {first.name!r} takes (T, {first.dim}) tokens, not {tuple(tokens.x.shape)}; embed them first"
            )
        if tokens.axes != self.axes:
            raise UserError(f"the hierarchy was built for {self.axes} axes, the tokens have {tokens.axes}")

    def _bottom_up(
        self, tokens: Tokens, record: _Record, levels: int | None, source: SourceMemory | None
    ) -> list[_State]:
        def state(index: int, x_TD: Tensor, plan: LevelPlan) -> _State:
            read = source.levels.get(index) if source is not None else None
            reads = read.reads(plan.coords_TC, plan.samples) if read is not None else None
            return _State(self.stages[index](x_TD, plan, reads=reads), plan, reads)

        states = [state(0, tokens.x, LevelPlan.of(tokens, self.config.levels[0], self.blocks))]
        # Each stage runs on what the transition made of the finished tokens of the level below.
        for index in range(1, levels or len(self.stages)):
            transition = self.transitions[index - 1]
            pooled = transition(states[-1].x_TD, states[-1].plan)
            states[-1].groups = pooled.groups
            states[-1].confidence_T1, states[-1].prob_G = pooled.confidence_T1, pooled.prob_G
            states[-1].routing = pooled.routing
            record.losses |= pooled.losses
            record.stats |= pooled.stats
            states.append(state(index, pooled.x_GE, pooled.plan))
        return states

    def _descend(self, index: int, states: list[_State], record: _Record) -> None:
        fine, coarse = states[index], states[index + 1]
        assert fine.groups is not None
        if self.config.cross_scale.down:
            # Whatever comes back from learned groups gives their boundaries a gradient.
            attended_TD = fine.scale_by_confidence(self._attend_down(index, fine, coarse))
            self._add(fine, attended_TD, f"down/{fine.plan.level.name}", record)
        if self.config.top_down:
            pooling = self.transitions[index].pooling
            unpooled_TD = self.top_down[index](coarse.x_TD, fine.groups, pooling, fine.prob_G)
            self._add(fine, fine.scale_by_confidence(unpooled_TD), f"top_down/{fine.plan.level.name}", record)
            fine.x_TD = self.stages[index](fine.x_TD, fine.plan, "decoder", fine.reads)

    def _attend_down(self, index: int, fine: _State, coarse: _State) -> Tensor:
        """Attention of fine tokens to the coarse tokens in the coarse level's window."""
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
        # Windows of the coarse level bound both sides: a run of coarse keys, and the fine tokens under it.
        k_spans = coarse.plan.cross_scale_spans()
        q_spans = groups.spans.merge(k_spans)
        return down.within(
            fine.x_TD, fine.plan.coords_TC, q_spans, coarse.x_TD, coarse.plan.coords_TC, k_spans, fine.plan.unit_C
        )

    def _ascend(self, index: int, states: list[_State], record: _Record) -> None:
        """Attention of each coarse token to the tokens of its group."""
        fine, coarse, up = states[index], states[index + 1], self.up[index]
        assert fine.groups is not None
        # One query per group, against the tokens of the group.
        spans = fine.groups.spans
        attended_TD = up.within(
            coarse.x_TD,
            coarse.plan.coords_TC,
            spans.singletons,
            fine.x_TD,
            fine.plan.coords_TC,
            spans,
            fine.plan.unit_C,
        )
        self._add(coarse, attended_TD, f"up/{coarse.plan.level.name}", record)

    def _add(self, state: _State, branch_TD: Tensor, name: str, record: _Record) -> None:
        if self.measure_contributions:
            # Relative size of the branch, for reports: near 0 for a path that stays closed.
            ratio = branch_TD.float().norm() / state.x_TD.float().norm().clamp(min=1e-12)
            record.stats[f"contribution/{name}"] = ratio.detach()
        state.x_TD = state.x_TD + branch_TD

    def _pyramid(self, tokens: Tokens, states: list[_State], record: _Record) -> Pyramid:
        names = tuple(level.name for level in self.config.levels)[: len(states)]
        levels, nested_blocks = {}, {}
        for name, state in zip(names, states, strict=True):
            # Only the output is normed: the states are residual streams that all passes add to.
            normed_TD = rms_norm(state.x_TD)
            grid = state.plan.grid
            # Boundaries and grids follow the tokens, so that a task can read any level like level 0.
            levels[name] = replace(
                tokens,
                x=normed_TD,
                spans=state.plan.samples,
                coords_TC=state.plan.coords_TC,
                grids=grid.shapes if grid is not None else None,
                boundaries=state.plan.boundaries,
            )
            nested_blocks[name] = grid.blocks if grid is not None else ()
        groups = {name: state.groups.spans for name, state in zip(names, states, strict=True) if state.groups}
        routings = {name: state.routing for name, state in zip(names, states, strict=True) if state.routing}
        return Pyramid(names, levels, groups, nested_blocks, record.losses, record.stats, routings)

    def learn_uncertainty(self, pyramid: Pyramid, nats_T: Tensor) -> None:
        """Lets groups with ``signal: uncertainty`` learn, in training, how hard tokens are to predict.

        Args:
            pyramid: what this hierarchy made of a batch.
            nats_T: cross-entropy of the token after each token of level 0.
        """
        if len(self.transitions) and isinstance(router := self.transitions[0].router, UncertaintyRouter):
            name = pyramid.names[0]
            router.learn(pyramid.routings[name], nats_T.detach(), pyramid[name].spans)

    def parameter_levels(self) -> dict[str, int]:
        """Index of the level that each parameter belongs to, by parameter name."""
        levels = {}
        for name, _ in self.named_parameters():
            # Paths between levels are numbered by their fine level. Those up belong to the coarse one.
            path, index = name.split(".")[:2]
            levels[name] = int(index) + (path == "up")
        return levels

    @property
    def feature_info(self) -> list[dict[str, object]]:
        """Channels and reduction of each level, as in timm."""
        info: list[dict[str, object]] = []
        reduction = 1.0
        for index, level in enumerate(self.config.levels):
            info.append({"num_chs": level.dim, "reduction": reduction, "module": f"stages.{index}"})
            # timm has one reduction for both axes; strides of the first axis stand for all.
            if index < len(self.transitions):
                reduction *= self.transitions[index].stride[0]
        return info

    def forward_intermediates(
        self,
        tokens: Tokens,
        indices: int | list[int] | None = None,
        *,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Pyramid, list[Tensor]]:
        """Feature maps of levels, as in timm, for grids with any number of axes.

        Args:
            tokens: as for :meth:`forward`; all samples must have one shape.
            indices: indices of the levels, or an int for the last n; all by default.
            output_fmt: NCHW for channels first, with any number of axes, or NLC for (B, cells, D).
            intermediates_only: return the maps without the pyramid.

        Returns:
            The pyramid and the (B, D, ...) maps, or the maps only.

        Raises:
            UserError: the samples differ in shape; ``Pyramid.maps`` gives a list of maps.
            ConfigError: there is no such level.
        """
        pyramid = self(tokens)
        every = list(range(len(self.stages)))
        if isinstance(indices, int) and not 1 <= indices <= len(every):
            raise ConfigError(
                f"asked for the last {indices} levels, but there are {len(every)}; give 1 to {len(every)}, or a list"
            )
        chosen = every if indices is None else every[-indices:] if isinstance(indices, int) else indices
        maps = []
        for index in map(self.config.index, chosen):
            # timm's maps are one tensor, which samples of different shapes do not form.
            by_sample = pyramid.maps(index)
            shapes = {tuple(one.shape) for one in by_sample}
            if len(shapes) > 1:
                raise UserError(
                    f"level {pyramid.names[index]!r} has maps of different shapes {sorted(shapes)[:3]}; use "
                    "Pyramid.maps()"
                )
            maps.append(torch.stack(by_sample))
        if output_fmt == "NLC":
            maps = [rearrange(stacked, "n c ... -> n (...) c") for stacked in maps]
        elif output_fmt != "NCHW":
            raise ConfigError(f"unknown output_fmt {output_fmt!r}; one of NCHW, NLC")
        return maps if intermediates_only else (pyramid, maps)


class Transformer(Hierarchy):
    """The flat baseline: a hierarchy of one level, with the same blocks."""

    def __init__(self, level: Level, axes: int = 1, *, causal: bool = False, drop_path: float = 0.0) -> None:
        super().__init__(HierarchyConfig(levels=(level,), causal=causal, drop_path=drop_path), axes)


def _of_plain(config: dict[str, Any]) -> HierarchyConfig:
    try:
        return HierarchyConfig.model_validate(config)
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(map(str, problem["loc"]))
        raise ConfigError(
            f"the hierarchy's configuration is not valid: {location or 'config'}: {problem['msg']}"
        ) from error
