"""Masked modelling: parts of the input are masked, and the finest level reconstructs them.

What is hidden is whole: every level-0 token under a token of the unit's level, as in SimMIM (arXiv 2111.09886) and
Hiera's masked pre-training (arXiv 2306.00989). Hidden inputs are blanked before the embedding, so that a stem that
looks past a token sees nothing of them, and after it their place holds one learned vector.

Shapes: T level-0 tokens, U units, D width of level 0, P features of a raw token, M hidden tokens.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..core.grids import nested_order
from ..core.hierarchy import Hierarchy
from ..core.levels import FixedGroups, HierarchyConfig, LearnedGroups
from ..core.linear import InitLinear
from ..core.plan import LevelPlan
from ..core.segments import segment_mean
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import Continuous, Discrete, reconstruction_targets
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


class MaskedConfig(EncoderTaskConfig):
    """Masked modelling: masked parts of the input are reconstructed from level 0."""

    type: Literal["masked"]
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Share of the units of each sample that is masked, at least one."""
    unit: str | None = None
    """Level whose tokens are the units of masking; the second level when absent."""
    normalize: bool = True
    """Normalize the target features of each token to mean 0 and deviation 1 (arXiv 2111.06377)."""
    tubes: bool = False
    """Tube masking, for grids whose first axis is time: mask the same positions at all times, so that nothing can be
    copied from other frames (arXiv 2203.12602)."""

    @property
    def labelled(self) -> bool:
        """Never: the tokens are their own target."""
        return False

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Masked:
        """The task's module.

        Raises:
            ConfigError: nothing carries the coarse levels down to level 0, the unit's groups are learned, the
                tokenizer does not say what its raw tokens are, they cannot be normalised, or tubes are asked for and
                units are no grid in time and space.
        """
        unit = model.index(self.unit) if self.unit is not None else min(1, len(model.levels) - 1)
        for level in model.levels[:unit]:
            if isinstance(level.group, LearnedGroups):
                raise ConfigError(
                    f"task.unit {model.levels[unit].name!r} is made of groups that level {level.name!r} learns, which "
                    f"are not known before the model runs; set task.unit to {level.name!r}"
                )
        if self.tubes and (
            tokenizer.axes < 2 or any(not isinstance(level.group, FixedGroups) for level in model.levels[:unit])
        ):
            raise ConfigError(
                "task.tubes hides places of a grid at all times, and the tokens of level "
                f"{model.levels[unit].name!r} are no grid; drop it, or let task.unit be a level of fixed groups"
            )
        if isinstance(tokenizer, Discrete) and not self.normalize:
            raise ConfigError("task.normalize has no effect on tokens that are ids; drop it")
        if isinstance(tokenizer, Continuous) and tokenizer.features == 1 and self.normalize:
            raise ConfigError("task.normalize leaves nothing of raw tokens of 1 feature; set task.normalize: false")
        return Masked(self, model, tokenizer, unit)


class Masked(EncoderTask):
    """Encoder, mask vector, linear head, and the loss on masked tokens.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes, the embedding and the targets.
        unit: place of the level whose tokens are hidden whole.
    """

    def __init__(self, config: MaskedConfig, model: HierarchyConfig, tokenizer: Tokenizer, unit: int) -> None:
        super().__init__(model, tokenizer, [0])
        if isinstance(tokenizer, Discrete):
            width = tokenizer.vocabulary
        elif isinstance(tokenizer, Continuous):
            width = tokenizer.features
        else:
            raise ConfigError(f"{type(tokenizer).__name__} gives neither features nor vocabulary; masked needs one")
        self.ratio, self.unit, self.normalize = config.ratio, unit, config.normalize
        self.tubes = config.tubes
        self.raw_targets = partial(reconstruction_targets, tokenizer)
        self.mask_D = nn.Parameter(torch.empty(model.levels[0].dim))
        start = partial(nn.init.trunc_normal_, std=0.02)
        self.head = InitLinear(model.levels[0].dim, width, start, bias=True, now=False)
        self.reset_parameters()
        self.head.init_weights()

    def reset_parameters(self) -> None:
        """Initializes the mask vector and the head."""
        nn.init.trunc_normal_(self.mask_D, std=0.02)

    def forward(self, batch: Batch) -> TaskOutput:
        """Masks a random part of the batch, drawn from torch's CPU generator, and reconstructs it."""
        return self.reconstruct(batch.tokens, self.hidden(batch.tokens))

    def hidden(self, tokens: Tokens) -> Tensor:
        """(T,) bool on the host: a random mask, drawn from torch's CPU generator."""
        units, plan = unit_plan(self.encoder.hierarchy, tokens, self.unit)
        return hide_tubes(units, plan, self.ratio) if self.tubes else hide(units, tokens.spans, self.ratio)

    def reconstruct(self, tokens: Tokens, hidden_T: Tensor) -> TaskOutput:
        """The loss for a given mask; predictions are those of all tokens, (T, P) features or (T,) ids.

        Args:
            tokens: raw tokens.
            hidden_T: (T,) bool on the host, true where a token is hidden.
        """
        hidden_T = hidden_T.to(tokens.device, non_blocking=True)
        guess_TP, losses = self._guess(tokens, hidden_T)
        target, count = self.raw_targets(tokens), hidden_T.sum()
        stats = {}
        if target.is_floating_point():
            name, predictions = "reconstruction", guess_TP
            target_TP = target.float()
            if self.normalize:
                variance, mean = torch.var_mean(target_TP, -1, correction=0, keepdim=True)
                target_TP = (target_TP - mean) * (variance + 1e-6).rsqrt()
            error_T = (guess_TP - target_TP).square().mean(-1)
        else:
            name, predictions = "cross_entropy", guess_TP.argmax(-1)
            error_T = F.cross_entropy(guess_TP, target, reduction="none")
            right_T = (predictions == target) & hidden_T & error_T.detach().isfinite()
            stats["accuracy"] = (right_T.sum(), count)
        parts = {name: (error_T * hidden_T).sum() / count.clamp(min=1)} | losses
        loss = torch.stack(list(parts.values())).sum()
        stats["loss"] = (loss.detach() * count, count)
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, predictions.detach())

    def _guess(self, tokens: Tokens, hidden_T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(T, P) predictions from the visible tokens, and the losses of the pyramid."""
        blanked = tokens.with_x(tokens.x.masked_fill(hidden_T.view(-1, *[1] * (tokens.x.ndim - 1)), 0))
        embedded = self.encoder.embedding(blanked)
        # torch.where would otherwise promote half precision to float32.
        mask_D = self.mask_D.to(embedded.x.dtype)
        pyramid = self.encoder.hierarchy(embedded.with_x(torch.where(hidden_T[:, None], mask_D, embedded.x)))
        return self.head(pyramid[0].x).float(), pyramid.losses


def mask_units(hierarchy: Hierarchy, tokens: Tokens, unit: int) -> Spans:
    """The level-0 tokens under each token of a level; arguments as of :func:`unit_plan`."""
    return unit_plan(hierarchy, tokens, unit)[0]


def unit_plan(hierarchy: Hierarchy, tokens: Tokens, unit: int) -> tuple[Spans, LevelPlan]:
    """The level-0 tokens under each token of a level, and the plan of that level.

    Args:
        hierarchy: gives the groups, none of them learned below ``unit``.
        tokens: of level 0.
        unit: place of the level.
    """
    plan = LevelPlan.of(tokens, hierarchy.config.levels[0], hierarchy.blocks)
    offsets = torch.arange(tokens.spans.total + 1)
    for transition in hierarchy.transitions[:unit]:
        group = transition.group
        assert not isinstance(group, LearnedGroups)
        groups = plan.fixed_groups(group) if isinstance(group, FixedGroups) else plan.given_groups(group)
        offsets = offsets[groups.spans.host]
        coords_GC = segment_mean(plan.coords_TC, groups.spans)
        plan = plan.coarser(transition.coarse, groups, coords_GC, transition.stride, gridded=transition.gridded)
    return Spans(offsets), plan


def hide_tubes(units: Spans, plan: LevelPlan, ratio: float) -> Tensor:
    """A random tube mask: the same positions at all steps of the first axis.

    Args:
        units: the units over the tokens.
        plan: of the units, which are grids.
        ratio: part of the places of each sample that is hidden, at least one and not all of several.

    Returns:
        (T,) bool on the host, true where a token is hidden.
    """
    assert plan.grid is not None
    chosen = []
    for shape in plan.grid.shapes:
        positions = math.prod(shape[1:])
        # Something is hidden of every sample, or it would have no loss, and something is left to infer it from.
        quota = min(max(1, round(positions * ratio)), max(1, positions - 1))
        # Raster order has time first, so a place is what is left of a cell's number.
        hidden = torch.rand(positions).argsort().argsort() < quota
        chosen.append(hidden[nested_order(shape, plan.grid.blocks) % positions])
    return torch.cat(chosen).repeat_interleave(units.lengths)


def hide(units: Spans, samples: Spans, ratio: float) -> Tensor:
    """A random mask of units: the same share of every sample and at least one.

    Args:
        units: the units over the tokens.
        samples: the samples over the tokens.
        ratio: part that is hidden.

    Returns:
        (T,) bool on the host, true where a token is hidden.
    """
    per_sample = Spans(samples.host).coarsen(units)
    sample_U = per_sample.ids
    # Sorted by sample and then at random, the first units of each sample are a random choice of them.
    order = (sample_U + torch.rand(len(units), dtype=torch.float64)).argsort()
    quota = (per_sample.lengths * ratio).round().long().clamp(min=1)
    chosen = torch.zeros(len(units), dtype=torch.bool)
    chosen[order] = per_sample.positions < quota[sample_U]
    return chosen.repeat_interleave(units.lengths)
