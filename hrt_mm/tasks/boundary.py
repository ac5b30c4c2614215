"""Boundary detection: where the groups of a boundary start, such as words in speech, told token by token.

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
from ..data.sample import Sample
from ..metrics.boundaries import BoundaryScores, boundary_scores, random_boundaries, uniform_boundaries
from .base import TaskConfig, TaskOutput
from .batch import Batch
from .encoding import EncoderTask
from .labels import linear_head

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer

SECONDS, TOKENS = (0.02, 0.04), (0.0, 1.0)
"""Tolerances where tokens stand for time, and elsewhere."""


class BoundaryConfig(TaskConfig):
    """Where groups start, at level 0. Samples need no labels: the data carries the boundary."""

    type: Literal["boundary"]
    unit: str
    """The boundary that is to be found, such as ``words``."""
    width: NonNegativeInt = 2
    """Tokens to each side over which the chance of one boundary may spread: it is summed over them. Two that are nearer
    than twice that may be taken for one."""
    threshold: Annotated[float, Field(gt=0)] = 0.5
    """How large that sum must be."""
    tolerances: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] | None = None
    """How far from a true boundary a found one may lie: in seconds where a token stands for time, else in tokens.
    When absent 0.02 and 0.04 s, or 0 and 1 tokens. The last one's F1 chooses the best checkpoint."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value of what the head reads in training."""

    @property
    def labelled(self) -> bool:
        """Never: samples carry the boundary."""
        return False

    @property
    def boundaries(self) -> tuple[str, ...]:
        """The one that is to be found."""
        return (self.unit,)

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Boundary:
        """The task's module.

        Raises:
            ConfigError: tokens lie on several axes, or a part of the model is never read.
        """
        if tokenizer.axes > 1:
            raise ConfigError(f"task boundary needs tokens on one axis, and the modality has {tokenizer.axes}")
        return Boundary(self, model, tokenizer)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> None:
        """None: the tokens carry the boundary."""
        return


class Boundary(EncoderTask):
    """Encoder, a logit a token, and the binary cross-entropy in nats a token.

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
        free_T = tokens.spans.positions > 0
        nats_T = F.binary_cross_entropy_with_logits(logits_T, true_T.float(), reduction="none")
        nats, count = (nats_T * free_T).sum(), free_T.sum()
        parts = {"cross_entropy": nats / count.clamp(min=1)} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        stats = {"loss": (loss.detach() * count, count), "cross_entropy": (nats.detach(), count)}
        parts = {name: part.detach() for name, part in parts.items()}
        if self.training:
            return TaskOutput(loss, parts, stats)
        found = self.places(logits_T, tokens.spans)
        starts_T = _mask(found, tokens.spans)
        broken = [bool(part.isnan().any()) for part in tokens.spans.split(logits_T.detach().cpu())]
        return TaskOutput(loss, parts, stats | self._scores(found, tokens, broken), starts_T.to(tokens.device))

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, D) tokens of level 0 to (T,) logits that a group starts there, in float32."""
        logits: Tensor = self.head(self.dropout(x_TD)).squeeze(1).float()
        return logits

    @on_host
    def places(self, logits_T: Tensor, spans: Spans) -> list[np.ndarray]:
        """Where groups start in each sample, in tokens; its first token is left out.

        Args:
            logits_T: of the tokens.
            spans: the samples.
        """
        chances_T = logits_T.detach().sigmoid().cpu()
        # Where chances are NaN nothing is found, and the scores below count that as wrong everywhere.
        chances_T = chances_T.nan_to_num(0.0)
        return [peaks(part.numpy(), self.width, self.threshold) for part in spans.split(chances_T)]

    @on_host
    def _scores(
        self, found: list[np.ndarray], tokens: Tokens, broken: Sequence[bool]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores of the samples. One whose logits are NaN scores as if each of its tokens was wrongly found."""
        unit = self.seconds_per_token or 1.0
        truths = [part.numpy().nonzero()[0] for part in tokens.spans.split(tokens.boundaries[self.unit])]
        totals: dict[tuple[str, float], BoundaryScores] = {}
        lengths = tokens.spans.lengths.tolist()
        for ours, truth, length, is_broken in zip(found, truths, lengths, broken, strict=True):
            truth = truth[truth > 0]
            generator = np.random.default_rng([length, len(truth)])
            cuts = {
                "": ours,
                "_even": uniform_boundaries(len(truth), length),
                "_random": random_boundaries(len(truth), length, generator),
            }
            for who, places in cuts.items():
                for tolerance in self.tolerances:
                    scores = boundary_scores(np.asarray(places) * unit, truth * unit, tolerance)
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


def peaks(chance_T: np.ndarray, width: int, threshold: float) -> np.ndarray:
    """Where boundaries lie: the largest sums of chances over neighbours first, each keeping its own to itself.

    Args:
        chance_T: of one sample's tokens. The first is no boundary.
        width: neighbours to each side that are summed.
        threshold: the least sum.

    Returns:
        Ascending places.
    """
    left_T = chance_T.astype(np.float64)
    left_T[:1] = 0.0
    found: list[int] = []
    while len(left_T) > 1:
        sums_T = np.convolve(left_T, np.ones(2 * width + 1))[width : width + len(left_T)]
        # Where sums are alike, the token whose own chance is the largest.
        place = 1 + int(np.lexsort((-left_T[1:], -sums_T[1:].round(6)))[0])
        if sums_T[place] < threshold:
            break
        found.append(place)
        left_T[max(0, place - width) : place + width + 1] = 0.0
    return np.sort(np.array(found, dtype=np.int64))


def _mask(places: list[np.ndarray], spans: Spans) -> Tensor:
    """(T,) bool, true at places of each sample and at its first token."""
    mask_T = torch.zeros(spans.total, dtype=torch.bool)
    for first, length, own in zip(spans.host.tolist(), spans.lengths.tolist(), places, strict=False):
        if length:
            mask_T[first] = True
            mask_T[first + torch.from_numpy(own)] = True
    return mask_T
