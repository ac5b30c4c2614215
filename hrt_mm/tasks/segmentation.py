"""Segmentation: where segments begin, of what kind their borders are, and what each segment is.

Every step has a probability for each kind of border. Consecutive steps above the threshold are one border, at their
weighted middle. A segment is classified by the mean of its steps: those of the true segments in training and for the
scores, those of the predicted ones in :meth:`Segmentation.segments`.

Shapes: T tokens of level 0, U steps, S segments, D width of what a step reads, K kinds of borders and none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.component import Component
from ..core.errors import BadSample, ConfigError
from ..core.host import on_host
from ..core.levels import HierarchyConfig
from ..core.segments import segment_mean
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..metrics.boundaries import BoundaryScores, boundary_scores
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig
from .labels import NO_LABEL, class_index_of, level_indices, linear_head
from .tagging import mean_over, units_of

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


class Border(Component):
    """A kind of border."""

    tolerance: NonNegativeInt = 0
    """Steps that a found border may lie from a true one to be right."""
    width: NonNegativeInt = 0
    """Steps on each side that belong to the border: those of a slow transition."""


class SegmentationConfig(EncoderTaskConfig):
    """Borders of one or several kinds, and a label for each segment between them."""

    type: Literal["segmentation"]
    borders: Annotated[dict[str, Border], Field(min_length=1)]
    """Kinds of borders: boundaries that the data carries, by name. The place where a sample begins is none."""
    unit: str | None = None
    """The boundary that starts a step, such as ``frames``; every level-0 token is one when absent."""
    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose tokens are read, or several, laid end to end: a step reads the mean over where it lies. The coarsest
    when absent."""
    labels: bool = True
    """Each segment has a label: those of a sample are a list."""
    label_weight: NonNegativeFloat = 1.0
    """Weight of the labels' loss beside that of the borders."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Least probability at which a step is a border."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value of what the heads read in training."""
    monitor: Literal["f1", "accuracy", "loss"] = "loss"
    """What chooses the best checkpoint: F1 of borders of any kind, accuracy of the labels, or the loss."""

    @property
    def boundaries(self) -> tuple[str, ...]:
        """Those of steps and borders."""
        return tuple(dict.fromkeys((*(() if self.unit is None else (self.unit,)), *self.borders)))

    @property
    def labelled(self) -> bool:
        """Whether segments are labelled too."""
        return self.labels

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Segmentation:
        """The task's module.

        Raises:
            ConfigError: labels are wanted and the data has none, there is no such level, or a part of the model is
                never read.
        """
        if self.labels and (classes is None or len(classes) < 2):
            raise ConfigError("task segmentation labels segments, and the data has no classes; set task.labels: false")
        if not self.labels and self.monitor == "accuracy":
            raise ConfigError("task.monitor accuracy is of labels, and task.labels is false; set f1 or loss")
        return Segmentation(self, model, tokenizer, classes or ())

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(U + S,) int64: the kind of each step, 0 for none, and with labels the class of each segment.

        Raises:
            BadSample: a label is not one of the training set's, or there are more or fewer labels than segments.
        """
        kinds_U = self.kinds(tokens)
        if not self.labels:
            return kinds_U
        class_index = {name: index for index, name in enumerate(classes or ())}
        label_indices: list[int] = []
        for sample, count in zip(samples, self.true_segments(tokens)[1].lengths.tolist(), strict=True):
            if not isinstance(sample.label, list | tuple):
                raise BadSample(sample.name, f"task segmentation needs a list of labels, got {sample.label!r:.40}")
            if len(sample.label) != count:
                raise BadSample(sample.name, f"has {len(sample.label)} labels and {count} segments")
            label_indices += [
                NO_LABEL if label is None else class_index_of(label, class_index, sample.name) for label in sample.label
            ]
        return torch.cat([kinds_U, torch.tensor(label_indices, dtype=torch.int64)])

    def kinds(self, tokens: Tokens) -> Tensor:
        """(U,) int64: the kind of border that each step belongs to; of two that overlap the nearer one."""
        units, samples = units_of(tokens, self.unit)
        kinds = np.zeros(len(units), dtype=np.int64)
        distance = np.full(len(units), np.iinfo(np.int64).max)
        sample_U = np.repeat(np.arange(len(samples)), samples.lengths.numpy())
        for kind, (name, border) in enumerate(self.borders.items(), 1):
            for step in np.flatnonzero(borders_of(tokens, name, units, samples)).tolist():
                steps = np.arange(max(0, step - border.width), min(len(units), step + border.width + 1))
                steps = steps[sample_U[steps] == sample_U[step]]
                # Kinds are painted one after another; a later one takes over only where it is nearer.
                nearer = np.abs(steps - step) < distance[steps]
                kinds[steps[nearer]] = kind
                distance[steps[nearer]] = np.abs(steps[nearer] - step)
        return torch.from_numpy(kinds)

    def true_segments(self, tokens: Tokens) -> tuple[Spans, Spans]:
        """The true segments over the steps, and the samples over the segments."""
        units, samples = units_of(tokens, self.unit)
        starts_U = torch.zeros(len(units), dtype=torch.bool)
        for name in self.borders:
            starts_U |= torch.from_numpy(borders_of(tokens, name, units, samples))
        return Spans.from_starts(starts_U, samples)


@dataclass(frozen=True)
class PredictedSegment:
    """A predicted segment.

    Args:
        first: its first step within the sample.
        end: the step after its last one.
        border: the kind of border that it begins at; ``None`` where the sample begins.
        border_prob: probability of that border.
        label: the class, where there are classes.
        label_prob: probability of the class.
    """

    first: int
    end: int
    border: str | None = None
    border_prob: float = 1.0
    label: str | None = None
    label_prob: float = 0.0


class Segmentation(EncoderTask):
    """Encoder, a head for borders and one for labels.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
    """

    def __init__(
        self,
        config: SegmentationConfig,
        model: HierarchyConfig,
        tokenizer: Tokenizer,
        classes: tuple[str, ...],
    ) -> None:
        self.levels = level_indices(model, config.level)
        super().__init__(model, tokenizer, self.levels)
        self.config, self.classes = config, classes
        self.monitor, self.monitor_mode = config.monitor, "min" if config.monitor == "loss" else "max"
        self.names = tuple(config.borders)
        self.dropout = nn.Dropout(config.dropout)
        width = sum(model.levels[index].dim for index in self.levels)
        self.border_head = linear_head(width, len(self.names) + 1)
        self.label_head = linear_head(width, len(classes)) if config.labels else None

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, in evaluation F1 of each kind of border and of all, accuracy of the labels, and kinds of steps (U,)."""
        assert batch.target is not None
        units_UD, losses = self.steps(batch.tokens)
        kinds_U = batch.target[: len(units_UD)]
        logits_UK = self.border_head(self.dropout(units_UD)).float()
        parts = {"borders": F.cross_entropy(logits_UK, kinds_U)}
        count = kinds_U.new_tensor(len(kinds_U))
        stats: dict[str, tuple[Tensor, Tensor]] = {"borders": (parts["borders"].detach() * count, count)}
        if self.label_head is not None:
            labels_S = batch.target[len(units_UD) :]
            segments, _ = self.config.true_segments(batch.tokens)
            logits_SC = self.label_logits(units_UD, segments)
            labelled = (labels_S != NO_LABEL).sum()
            total = F.cross_entropy(logits_SC, labels_S, ignore_index=NO_LABEL, reduction="sum")
            labels = self.over("labels", total / labelled.clamp(min=1), labelled, count)
            parts["labels"] = self.config.label_weight * labels
            correct_S = (logits_SC.detach().argmax(-1) == labels_S) & logits_SC.detach().isfinite().all(-1)
            stats["accuracy"] = (correct_S.sum(), labelled)
        parts |= losses
        loss = torch.stack(list(parts.values())).sum()
        stats["loss"] = (loss.detach() * count, count)
        if not self.training:
            stats |= self._scores(batch.tokens, logits_UK)
        predictions = logits_UK.detach().argmax(-1)
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, predictions)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Steps, and segments with a label."""
        assert batch.target is not None
        if self.label_head is None:
            return {}
        steps = len(units_of(batch.tokens, self.config.unit)[0])
        labelled = (batch.target[steps:] != NO_LABEL).sum()
        return {"borders": labelled.new_tensor(steps), "labels": labelled}

    def steps(self, tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
        """(U, D) what each step reads, and the pyramid's losses."""
        pyramid = self.encoder(tokens)
        units, _ = units_of(tokens, self.config.unit)
        return torch.cat([mean_over(pyramid, level, units) for level in self.levels], -1), pyramid.losses

    def label_logits(self, units_UD: Tensor, segments: Spans) -> Tensor:
        """(S, C) logits of segments, runs of steps."""
        assert self.label_head is not None
        logits_SC: Tensor = self.label_head(self.dropout(segment_mean(units_UD, segments)))
        return logits_SC.float()

    @torch.no_grad()
    def segments(self, tokens: Tokens) -> list[list[PredictedSegment]]:
        """The segments of each sample, in evaluation mode."""
        units_UD, _ = self.steps(tokens)
        _, samples = units_of(tokens, self.config.unit)
        return self.segments_of(units_UD, samples)

    @torch.no_grad()
    def segments_of(self, units_UD: Tensor, samples: Spans) -> list[list[PredictedSegment]]:
        """The segments of samples whose steps are read already.

        Args:
            units_UD: what each step reads.
            samples: runs of steps.
        """
        probs_UK = self.border_head(units_UD).float().softmax(-1).cpu()
        segments = []
        for probs_TK, steps_TD in zip(samples.split(probs_UK), samples.split(units_UD), strict=True):
            borders = pick_borders(probs_TK.numpy(), self.config.threshold)
            firsts = [0, *(step for step, _, _ in borders)]
            ends = [*firsts[1:], len(steps_TD)]
            starts = [(None, 1.0), *((self.names[kind], prob) for _, kind, prob in borders)]
            labels: list[tuple[str | None, float]] = [(None, 0.0)] * len(firsts)
            if self.label_head is not None:
                spans = Spans.from_lengths(
                    [end - first for first, end in zip(firsts, ends, strict=True)], steps_TD.device
                )
                probs_S, label_S = self.label_logits(steps_TD, spans).softmax(-1).max(-1)
                pairs = zip(label_S.tolist(), probs_S.tolist(), strict=True)
                labels = [(self.classes[label], prob) for label, prob in pairs]
            segments.append(
                [
                    PredictedSegment(first, end, *border, *label)
                    for first, end, border, label in zip(firsts, ends, starts, labels, strict=True)
                ]
            )
        return segments

    def _scores(self, tokens: Tokens, logits_UK: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """F1 as twice the hits over the borders found and true, which adds up over batches."""
        units, samples = units_of(tokens, self.config.unit)
        probs_UK = logits_UK.detach().softmax(-1).cpu()
        true = {name: split_borders(borders_of(tokens, name, units, samples), samples) for name in self.names}
        predicted = [pick_borders(probs_TK.numpy(), self.config.threshold) for probs_TK in samples.split(probs_UK)]
        broken = sum(len(part) for part in samples.split(probs_UK) if part.isnan().any())
        stats = {}
        for kind, (name, border) in enumerate(self.config.borders.items()):
            steps = [[step for step, other, _ in borders if other == kind] for borders in predicted]
            scores = _sum(steps, true[name], border.tolerance)
            stats[f"f1/{name}"] = _share(scores, broken, logits_UK.device)
        widest = max(border.tolerance for border in self.config.borders.values())
        every = [sorted({step for steps in sample for step in steps}) for sample in zip(*true.values(), strict=True)]
        any_kind = _sum([[step for step, _, _ in borders] for borders in predicted], every, widest)
        stats["f1"] = _share(any_kind, broken, logits_UK.device)
        return stats


def pick_borders(probs_UK: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """Borders of one sample: step, kind and probability of each.

    Args:
        probs_UK: probabilities of no border, and of each kind.
        threshold: consecutive steps above this probability of any kind are one border, at their weighted middle.
    """
    border_U = 1 - probs_UK[:, 0]
    above = border_U > threshold
    # Where the sample begins is no border.
    above[:1] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(np.int8)))
    borders = []
    for first, end in edges.reshape(-1, 2):
        weight = border_U[first:end]
        # A border is wider than a step, so probabilities rise and fall around it: their centre is its place.
        step = round(float((np.arange(first, end) * weight).sum() / weight.sum()))
        kind = int(probs_UK[first:end, 1:].sum(0).argmax())
        borders.append((step, kind, float(weight.max())))
    return borders


@on_host
def borders_of(tokens: Tokens, name: str, units: Spans, samples: Spans) -> np.ndarray:
    """(U,) bool: steps in which a group of a boundary starts, but for the first of each sample."""
    starts_T = tokens.boundaries[name].numpy()
    first_U = units.host[:-1].numpy()
    borders_U: np.ndarray = np.logical_or.reduceat(starts_T, first_U) if len(first_U) else starts_T[:0].copy()
    firsts = samples.host[:-1].numpy()
    borders_U[firsts[firsts < len(borders_U)]] = False
    return borders_U


def split_borders(borders_U: np.ndarray, samples: Spans) -> list[list[int]]:
    """Steps of the borders, counted within each sample."""
    offsets = samples.host.tolist()
    return [np.flatnonzero(borders_U[first:end]).tolist() for first, end in pairwise(offsets)]


def _sum(predicted: Sequence[Sequence[int]], true: Sequence[Sequence[int]], tolerance: int) -> BoundaryScores:
    pairs = zip(predicted, true, strict=True)
    return sum((boundary_scores(ours, reference, tolerance) for ours, reference in pairs), BoundaryScores())


def _share(scores: BoundaryScores, broken: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of F1; each step of a sample whose probabilities are NaN counts as wrong."""
    counts = torch.tensor([2 * scores.hits, scores.predicted + scores.reference + broken], device=device)
    return counts[0], counts[1]
