"""Boundary detection: where the groups of a boundary start, such as words in speech, predicted per token.

Shapes: T level-0 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..core.host import on_host
from ..core.levels import HierarchyConfig
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import seconds_per_token
from ..metrics.boundaries import BoundaryScores, boundary_scores, random_boundaries, uniform_boundaries
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig
from .labels import linear_head

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer

SECONDS, TOKENS = (0.02, 0.04), (0.0, 1.0)
"""Default tolerances in seconds where tokens have a duration, else in tokens."""


class BoundaryConfig(EncoderTaskConfig):
    """Boundary detection at level 0. Samples need no labels: the data carries the boundary."""

    type: Literal["boundary"]
    unit: str
    """The boundary to predict, such as ``words``."""
    width: NonNegativeInt = 2
    """Tokens to each side over which the probability of a boundary is summed. Boundaries that are nearer than twice
    that may be merged."""
    threshold: Annotated[float, Field(gt=0)] = 0.5
    """Least sum at which a boundary is predicted."""
    tolerances: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] | None = None
    """Distances within which a predicted boundary matches a true one: in seconds where tokens have a duration, else in
    tokens. When absent 0.02 and 0.04 s, or 0 and 1 tokens. F1 at the last one selects the best checkpoint."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the head's input."""

    @property
    def labelled(self) -> bool:
        """Never: samples carry the boundary."""
        return False

    @property
    def boundaries(self) -> tuple[str, ...]:
        """The boundary to predict."""
        return (self.unit,)

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Boundary:
        """The task's module.

        Raises:
            ConfigError: tokens lie on several axes, or a part of the model is never read.
        """
        if tokenizer.axes > 1:
            raise ConfigError(f"task boundary needs tokens on one axis, and the modality has {tokenizer.axes}")
        return Boundary(self, model, tokenizer)


class Boundary(EncoderTask):
    """Encoder, one logit per token, and the binary cross-entropy in nats per token.

    Metrics in evaluation: F1, precision and recall at each tolerance, as ``f1_40ms`` or ``f1_1``; the mean distance of
    the pairs at the widest one, ``error_ms`` or ``error``; and F1 of as many cuts that know nothing, ``f1_40ms_even``
    and ``f1_40ms_random``. The first token of a sample, where each starts, counts nowhere. Places are those of tokens.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes, the embedding and the time of a token.
    """

    monitor_mode = "max"

    def __init__(self, config: BoundaryConfig, model: HierarchyConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer, [0])
        self.unit, self.width, self.threshold = config.unit, config.width, config.threshold
        self.seconds_per_token = seconds_per_token(tokenizer)
        self.tolerances = config.tolerances or (TOKENS if self.seconds_per_token is None else SECONDS)
        self.monitor = f"f1_{self._called(self.tolerances[-1])}"
        self.dropout = nn.Dropout(config.dropout)
        self.head = linear_head(model.levels[0].dim, 1)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics; predictions are (T,) bool, true where a group starts, in evaluation."""
        tokens = batch.tokens
        pyramid = self.encoder(tokens)
        logits_T = self.logits(pyramid[0].x)
        true_T = tokens.boundaries[self.unit].to(tokens.device, non_blocking=True)
        # Every sample starts with a group, which is nothing to learn.
        free_T = tokens.spans.positions > 0
        nats_T = F.binary_cross_entropy_with_logits(logits_T, true_T.float(), reduction="none")
        nats, count = (nats_T * free_T).sum(), free_T.sum()
        parts = {"cross_entropy": nats / count.clamp(min=1)} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        stats = {"loss": (loss.detach() * count, count), "cross_entropy": (nats.detach(), count)}
        parts = {name: part.detach() for name, part in parts.items()}
        if self.training:
            return TaskOutput(loss, parts, stats)
        predicted = self.positions(logits_T, tokens.spans)
        starts_T = _mask(predicted, tokens.spans)
        broken = [bool(part.isnan().any()) for part in tokens.spans.split(logits_T.detach().cpu())]
        return TaskOutput(loss, parts, stats | self._scores(predicted, tokens, broken), starts_T.to(tokens.device))

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, D) tokens of level 0 to (T,) logits that a group starts there, in float32."""
        logits: Tensor = self.head(self.dropout(x_TD)).squeeze(1).float()
        return logits

    @on_host
    def positions(self, logits_T: Tensor, spans: Spans) -> list[np.ndarray]:
        """Where groups start in each sample, in tokens; its first token is left out.

        Args:
            logits_T: of the tokens.
            spans: the samples.
        """
        probs_T = logits_T.detach().sigmoid().cpu()
        # NaN predicts no boundary; the scores below count such a sample as wrong everywhere.
        probs_T = probs_T.nan_to_num(0.0)
        return [peaks(part.numpy(), self.width, self.threshold) for part in spans.split(probs_T)]

    @on_host
    def _scores(
        self, predicted: list[np.ndarray], tokens: Tokens, broken: Sequence[bool]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores of the samples. One with NaN logits counts as a false positive at every token."""
        unit = self.seconds_per_token or 1.0
        truths = [part.numpy().nonzero()[0] for part in tokens.spans.split(tokens.boundaries[self.unit])]
        totals: dict[tuple[str, float], BoundaryScores] = {}
        lengths = tokens.spans.lengths.tolist()
        for ours, truth, length, is_broken in zip(predicted, truths, lengths, broken, strict=True):
            truth = truth[truth > 0]
            # Seeded by the sample alone, so that the baseline depends neither on batches nor on ranks.
            generator = np.random.default_rng([length, len(truth)])
            cuts = {
                "": ours,
                "_even": uniform_boundaries(len(truth), length),
                "_random": random_boundaries(len(truth), length, generator),
            }
            for who, cut_positions in cuts.items():
                for tolerance in self.tolerances:
                    scores = boundary_scores(np.asarray(cut_positions) * unit, truth * unit, tolerance)
                    if is_broken and not who:
                        scores = BoundaryScores(0, max(0, length - 1), len(truth))
                    totals[who, tolerance] = totals.get((who, tolerance), BoundaryScores()) + scores
        return self._stats(totals, tokens.device)

    def _stats(
        self, totals: dict[tuple[str, float], BoundaryScores], device: torch.device
    ) -> dict[str, tuple[Tensor, Tensor]]:
        pairs: dict[str, tuple[float, float]] = {}
        for (who, tolerance), scores in totals.items():
            called = self._called(tolerance)
            pairs[f"f1_{called}{who}"] = (2 * scores.hits, scores.predicted + scores.reference)
            if not who:
                pairs[f"precision_{called}"] = (scores.hits, scores.predicted)
                pairs[f"recall_{called}"] = (scores.hits, scores.reference)
        if (widest := totals.get(("", max(self.tolerances)))) is not None:
            timed = self.seconds_per_token is not None
            pairs["error_ms" if timed else "error"] = (widest.distance * (1000 if timed else 1), widest.hits)
        return {
            name: (torch.tensor(float(value), device=device), torch.tensor(float(count), device=device))
            for name, (value, count) in pairs.items()
        }

    def _called(self, tolerance: float) -> str:
        return f"{tolerance:g}" if self.seconds_per_token is None else f"{1000 * tolerance:g}ms"


def peaks(prob_T: np.ndarray, width: int, threshold: float) -> np.ndarray:
    """Positions of boundaries: greedy non-maximum suppression of probabilities summed over neighbours.

    Args:
        prob_T: of one sample's tokens. The first is no boundary.
        width: neighbours to each side that are summed.
        threshold: the least sum.

    Returns:
        Ascending positions.
    """
    left_T = prob_T.astype(np.float64)
    left_T[:1] = 0.0
    picked: list[int] = []
    while len(left_T) > 1:
        sums_T = np.convolve(left_T, np.ones(2 * width + 1))[width : width + len(left_T)]
        # Of equal sums, the token with the largest probability.
        best = 1 + int(np.lexsort((-left_T[1:], -sums_T[1:].round(6)))[0])
        if sums_T[best] < threshold:
            break
        picked.append(best)
        # The mass that this boundary explains is spent; what is left may make another one.
        left_T[max(0, best - width) : best + width + 1] = 0.0
    return np.sort(np.array(picked, dtype=np.int64))


def _mask(positions: list[np.ndarray], spans: Spans) -> Tensor:
    """(T,) bool, true at the given positions of each sample and at its first token."""
    mask_T = torch.zeros(spans.total, dtype=torch.bool)
    for first, length, sample_positions in zip(spans.host.tolist(), spans.lengths.tolist(), positions, strict=False):
        if length:
            mask_T[first] = True
            mask_T[first + torch.from_numpy(sample_positions)] = True
    return mask_T
