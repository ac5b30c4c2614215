"""Tagging: one label per word, sentence or other unit that a boundary starts, or one per token.

Shapes: T tokens of level 0, N of the level that is read, D its width, U units: what has a label each, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..core.errors import BadSample
from ..core.host import on_host
from ..core.levels import GivenGroups, HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.segments import segment_mean
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.sample import Sample
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTaskConfig
from .labels import NO_LABEL, LabelConfig, LabelTask, class_index_of, linear_head

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


class TaggingConfig(LabelConfig, EncoderTaskConfig):
    """One label per unit. Labels are lists, in which ``None`` is no label."""

    type: Literal["tagging"]
    unit: str | None = None
    """The boundary that starts a unit, such as ``words``; every level-0 token is a unit when absent."""
    level: str | None = None
    """Level whose tokens are read: a unit reads their mean over its span. When absent, the level whose tokens are
    groups by ``unit``; the finest where there is none, and where the last pass of the model is top-down."""

    @property
    def boundaries(self) -> tuple[str, ...]:
        """The boundary of units."""
        return () if self.unit is None else (self.unit,)

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Tagging:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, there is no such level, or a part of the model is never read.
        """
        return Tagging(self, model, tokenizer, self.checked_classes(classes), self._level(model))

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(U,) int64 class indices, -1 for no label.

        Raises:
            BadSample: a label is not one of the training set's, or there are more or fewer labels than units.
        """
        class_index = {name: index for index, name in enumerate(classes or ())}
        indices: list[int] = []
        counts = units_of(tokens, self.unit)[1].lengths.tolist()
        for sample, count in zip(samples, counts, strict=True):
            labels = sample.label
            if not isinstance(labels, list | tuple):
                raise BadSample(sample.name, f"task tagging needs a list of labels, got {labels!r:.40}")
            if len(labels) != count:
                raise BadSample(sample.name, f"has {len(labels)} labels and {count} {self.unit or 'tokens'}")
            indices += [NO_LABEL if tag is None else class_index_of(tag, class_index, sample.name) for tag in labels]
        return torch.tensor(indices, dtype=torch.int64)

    def _level(self, model: HierarchyConfig) -> int:
        if self.level is not None:
            return model.index(self.level)
        # The last pass ends at level 0, which then knows what the coarse levels do.
        if (model.top_down or model.cross_scale.down) and not model.cross_scale.up:
            return 0
        # Else the level with one token for each unit, if there is one.
        for index, (fine, _) in enumerate(pairwise(model.levels)):
            if isinstance(fine.group, GivenGroups) and fine.group.boundary == self.unit:
                return index + 1
        return 0


class Tagging(LabelTask):
    """Encoder, linear head over the units, and cross-entropy.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
        level: place of the level that is read.
    """

    def __init__(
        self,
        config: TaggingConfig,
        model: HierarchyConfig,
        tokenizer: Tokenizer,
        classes: tuple[str, ...],
        level: int,
    ) -> None:
        super().__init__(config, model, tokenizer, [level], classes)
        self.level, self.unit = level, config.unit
        self.head = linear_head(model.levels[level].dim, len(classes))

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy, macro-F1 and the predicted classes (U,)."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        return self.label_output(self._logits(pyramid, batch.tokens), batch.target, pyramid.losses)

    def logits(self, tokens: Tokens) -> Tensor:
        """(U, K) logits of the units of all samples."""
        return self._logits(self.encoder(tokens), tokens)

    def _logits(self, pyramid: Pyramid, tokens: Tokens) -> Tensor:
        units_UD = mean_over(pyramid, self.level, units_of(tokens, self.unit)[0])
        logits_UK: Tensor = self.head(self.dropout(units_UD))
        return logits_UK


def units_of(tokens: Tokens, unit: str | None) -> tuple[Spans, Spans]:
    """The units that a boundary divides raw tokens into.

    Args:
        tokens: of level 0.
        unit: the boundary; every token is a unit when ``None``.

    Returns:
        The units over the tokens, and the samples over the units.
    """
    if unit is None:
        return tokens.spans.cut(1), tokens.spans
    return Spans.from_starts(tokens.boundaries[unit], tokens.spans)


def mean_over(pyramid: Pyramid, level: int, units: Spans) -> Tensor:
    """(U, D) the mean of a level over runs of level-0 tokens, weighted by overlap.

    Args:
        pyramid: the levels.
        level: place of the one that is read.
        units: runs of level-0 tokens, within samples.
    """
    x_ND = pyramid[level].x
    if level == 0:
        return segment_mean(x_ND, units)
    under = level_spans(pyramid, level)
    if _same(under, units):
        return x_ND
    return segment_mean(x_ND[under.ids], units)


def level_spans(pyramid: Pyramid, level: int) -> Spans:
    """The level-0 tokens under each token of a level above it."""
    under = pyramid.groups[pyramid.names[0]]
    for name in pyramid.names[1:level]:
        under = under.merge(pyramid.groups[name])
    return under


@on_host
def _same(one: Spans, other: Spans) -> bool:
    return torch.equal(one.host, other.host)
