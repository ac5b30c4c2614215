"""Shared by the tasks that predict one row of outputs per sample from pooled vectors.

Shapes: B samples, V views of each, D width of the pooled vectors, R outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..data.sample import Sample
from ..data.stream import StreamedDataset
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig
from .labels import level_indices, linear_head

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tokenizer import Tokenizer


class PooledTaskConfig(EncoderTaskConfig):
    """A task over the pooled vectors of one or several levels. A sample may have several views."""

    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose pooled vector is read, or several, concatenated; the coarsest when absent."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the head's input."""

    def values(self, samples: Sequence[Sample]) -> list[Any]:
        """The samples' values, or all views of each where they are tuples of views.

        Raises:
            BadSample: one has more or fewer views than the first.
        """
        return views_of(samples)


class PooledTask(EncoderTask):
    """Encoder, pooled vectors of some levels, and a linear head.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        outputs: width of the head.
    """

    def __init__(self, config: PooledTaskConfig, model: HierarchyConfig, tokenizer: Tokenizer, outputs: int) -> None:
        self.levels = level_indices(model, config.level)
        super().__init__(model, tokenizer, self.levels)
        self.dropout = nn.Dropout(config.dropout)
        self.head = linear_head(sum(model.levels[index].dim for index in self.levels), outputs)

    def view_logits(self, pyramid: Pyramid) -> Tensor:
        """(B * V, R) the head's outputs for each view."""
        pooled = [pyramid.pooled(level) for level in self.levels]
        outputs: Tensor = self.head(self.dropout(pooled[0] if len(pooled) == 1 else torch.cat(pooled, -1)))
        return outputs

    def by_view(self, pyramid: Pyramid, batch: Batch) -> Tensor:
        """(B, V, R) float32 outputs of the views of each sample."""
        return self.view_logits(pyramid).float().unflatten(0, (len(batch), -1))


def views_of(samples: Sequence[Sample]) -> list[Any]:
    """The samples' values, or all views of each where they are tuples of views.

    Raises:
        BadSample: one has more or fewer views than the first.
    """
    views = [sample.value if isinstance(sample.value, tuple) else (sample.value,) for sample in samples]
    for sample, sample_views in zip(samples, views, strict=True):
        if len(sample_views) != len(views[0]):
            raise BadSample(
                sample.name, f"has {len(sample_views)} views and {samples[0].name} {len(views[0])}; give as many"
            )
    return [view for sample_views in views for view in sample_views]


def training_labels(dataset: Dataset, key: str, instead: str) -> Iterator[Sample]:
    """The labels of a training set, as samples without values. Those that cannot be read are left out.

    Args:
        dataset: the training set.
        key: what needs them, for messages.
        instead: what to set for a stream, for messages.

    Raises:
        ConfigError: the training set is a stream.
    """
    if isinstance(dataset, StreamedDataset):
        raise ConfigError(
            f"{key} is computed from the labels of the training set, and a stream is not listed: {instead}"
        )
    for index in range(len(dataset)):
        try:
            yield Sample(None, dataset.label_of(index), dataset.name(index))
        except BadSample:
            # Training reports it.
            continue
