"""Matching: one label per pair of samples, which two towers with shared weights encode separately.

The form of Long Range Arena's Retrieval task (arXiv 2011.04006): the pooled vectors of both, their product and their
difference go into a small network. Nothing of one sample is seen while the other is encoded, so that vectors can be
made once and compared often.

Shapes: B pairs, D width of the pooled vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..core.errors import BadSample
from ..core.levels import HierarchyConfig
from ..core.linear import InitLinear
from ..core.tokens import Tokens
from ..data.sample import Sample
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTaskConfig
from .labels import LabelConfig, LabelTask, class_indices, level_indices, linear_head

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


class MatchingConfig(LabelConfig, EncoderTaskConfig):
    """One label per pair. The values of samples are pairs."""

    type: Literal["matching"]
    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose pooled vectors are compared, or several, concatenated; the coarsest when absent."""
    hidden: PositiveInt | None = None
    """Hidden width of the comparing network; that of the pooled vector when absent."""

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Matching:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, there is no such level, or a part of the model is never read.
        """
        return Matching(self, model, tokenizer, self.checked_classes(classes))

    def values(self, samples: Sequence[Sample]) -> list[Any]:
        """Both values of each pair, pair after pair.

        Raises:
            BadSample: a value is no pair.
        """
        values: list[Any] = []
        for sample in samples:
            if not isinstance(sample.value, tuple) or len(sample.value) != 2:
                kind = f"{len(sample.value)} values" if isinstance(sample.value, tuple) else "one value"
                raise BadSample(
                    sample.name, f"task matching needs samples of two values, and this one has {kind}; use other data"
                )
            values += sample.value
        return values

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 class indices. A label is the name of a class, or its index.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        return class_indices(samples, classes)


class Matching(LabelTask):
    """One encoder for both sides, and a network that compares their vectors.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
    """

    def __init__(
        self, config: MatchingConfig, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...]
    ) -> None:
        self.levels = level_indices(model, config.level)
        super().__init__(config, model, tokenizer, self.levels, classes)
        width = sum(model.levels[index].dim for index in self.levels)
        hidden = config.hidden or width
        self.compare = InitLinear(4 * width, hidden, nn.init.xavier_uniform_, bias=True, now=False)
        self.head = linear_head(hidden, len(classes))
        self.compare.init_weights()

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy, macro-F1 and the predicted classes (B,)."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        pooled_BD = torch.cat([pyramid.pooled(level) for level in self.levels], -1)
        # Both sides went through the encoder in one batch, side by side.
        return self.label_output(self.compared(pooled_BD[::2], pooled_BD[1::2]), batch.target, pyramid.losses)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K) of the pairs of a batch, whose targets need not be there."""
        pyramid = self.encoder(batch.tokens)
        pooled_BD = torch.cat([pyramid.pooled(level) for level in self.levels], -1)
        return self.compared(pooled_BD[::2], pooled_BD[1::2])

    def compared(self, first_BD: Tensor, second_BD: Tensor) -> Tensor:
        """(B, D) vectors of both sides to (B, K) logits of the pairs."""
        # Products and differences spare the network from learning what similarity is (InferSent, arXiv 1705.02364).
        both = [first_BD, second_BD, first_BD * second_BD, first_BD - second_BD]
        hidden = torch.relu(self.compare(self.dropout(torch.cat(both, -1))))
        logits: Tensor = self.head(hidden)
        return logits
