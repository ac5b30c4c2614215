"""The contract of tasks: a module of model and loss, which is all that the trainer sees, and collation for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..core.component import Component
from .batch import Batch, TowerTokens

if TYPE_CHECKING:
    from ..core.levels import HierarchyConfig
    from ..data.dataset import Dataset, Mixing
    from ..data.sample import Sample
    from ..data.tokenizer import Tokenizer, TokenizerConfig


@dataclass
class TaskOutput:
    """What a task makes of a batch.

    Args:
        loss: scalar to descend, auxiliary losses included.
        parts: the terms of the loss by name, detached scalars.
        stats: by metric name, a sum and the count it is over, scalars: metrics add up exactly over batches and ranks.
        predictions: one row a sample (or token), where the task predicts; for reports.
        class_counts: by metric name, (3, K) counts of the K classes' right predictions, predictions and true samples,
            of which the metric is the macro-F1; in evaluation.
        rows: by name, rows that are kept until the split's end, for :meth:`Task.summarize`; in evaluation.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    predictions: Tensor | None = None
    class_counts: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)


class Task(nn.Module, ABC):
    """Model and loss in one module, so that DDP, FSDP2, compile and EMA wrap one object.

    ``monitor`` is the metric that "best" is judged by, and ``monitor_mode`` says which way is better.
    """

    monitor: str = "loss"
    monitor_mode: str = "min"
    leaves_unused: bool = True
    """Whether a batch may leave a parameter without a gradient, so that ranks must look for those after each forward
    pass. A module within may say it of its own parameters. A module within may also have ``shardable = False``, where
    its parameters cannot be replaced by shards (FSDP2)."""
    calibrated: tuple[str, ...] = ()
    """Names of the buffers that :meth:`calibrate` sets."""
    _shares: Mapping[str, Tensor] = MappingProxyType({})

    @abstractmethod
    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics of a batch."""

    @abstractmethod
    def parameter_levels(self) -> dict[str, int | None]:
        """By parameter name, the level it belongs to; ``None`` for embeddings and heads."""

    @abstractmethod
    def lr_scales(self) -> Sequence[float]:
        """The learning-rate multiplier of each level."""

    def fit_labels(self, dataset: Dataset) -> None:
        """Sets what depends on the labels of the training set, such as their scale; before a run starts.

        Args:
            dataset: the training set.

        Raises:
            ConfigError: it is a stream, whose labels are not listed, or its labels cannot be used.
        """

    def calibrate(self, rows: Mapping[str, Tensor]) -> None:
        """Sets the buffers in ``calibrated`` from an evaluation of ``val`` in training, before its metrics.

        Args:
            rows: as :meth:`summarize` takes them.
        """

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of a whole split, by name.

        Args:
            rows: what :class:`TaskOutput` kept, of all batches and ranks one after another, on the host.
        """
        return {}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What the terms of the loss are means over, where they are over different things; known from the batch alone.

        A step of several batches, or ranks, adds them up beforehand (:meth:`sharing`), so that it has the gradient of
        one batch with all samples. The first count is what a batch weighs. None are needed where the loss is a mean
        over one count, which :class:`TaskOutput` then gives for ``loss``.
        """
        return {}

    @contextmanager
    def sharing(self, totals: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the terms of the loss are means over all batches of a step.

        Args:
            totals: by term, what :meth:`counts` gives, summed over batches and ranks; none for a step of one batch.
        """
        weights = list(totals.values())
        self._shares = {name: weights[0] / total.clamp(min=1) for name, total in totals.items()}
        try:
            yield
        finally:
            self._shares = MappingProxyType({})

    def over(self, term: str, mean: Tensor, count: Tensor, weight: Tensor) -> Tensor:
        """A term of the loss: its mean in this batch, or its share of the mean over the step.

        Args:
            term: its name, as :meth:`counts` has it.
            mean: over the batch.
            count: what :meth:`counts` gives.
            weight: what the batch weighs.
        """
        if term not in self._shares:
            return mean
        return mean * (count * self._shares[term] / weight.clamp(min=1)).to(mean.dtype)

    def nonfinite_source(self, batch: Batch) -> str:
        """Where a non-finite value first appears on this batch: the input, a level by name, or the loss."""
        return "the loss"


class Collator(ABC):
    """Tokenizes samples and makes the targets of a task. It is pickled for workers that are not forked.

    Args:
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], classes: tuple[str, ...] | None) -> None:
        self.tokenizers, self.classes = dict(tokenizers), classes
        self.mixing: Mixing | None = None
        """Mixes the samples of training batches, of tasks that can (:attr:`TaskConfig.mixes`)."""

    @abstractmethod
    def values(self, sample: Sample, tower: str) -> list[Any]:
        """The raw values of a sample that a tower reads; none if the sample lacks this modality.

        Raises:
            BadSample: the value is not what the task needs.
        """

    @abstractmethod
    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens of some samples for each tower, without targets. Towers that no sample has are left out.

        Raises:
            BadSample: a sample cannot be tokenized.
        """

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples.

        Raises:
            BadSample: a sample cannot be used.
        """


class TaskConfig(Component):
    """Configuration of a task; a subclass fixes ``type``. It also makes the targets, in loader workers.

    Tasks are over one modality (:class:`hrt_mm.tasks.encoding.EncoderTaskConfig`) or over several
    (:class:`hrt_mm.tasks.joint.JointTaskConfig`).
    """

    type: str

    @property
    def boundaries(self) -> tuple[str, ...]:
        """The tokenizer's boundaries that targets are made by, beside those that the model groups by."""
        return ()

    @property
    def predicted_tower(self) -> str | None:
        """The tower whose next tokens the task learns to predict."""
        return None

    @property
    def labelled(self) -> bool:
        """Whether the model's outputs stand for the data's classes, in their order."""
        return True

    @property
    def mixes(self) -> bool:
        """Whether the task can learn from samples that are mixed, and so have several classes in shares."""
        return False

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Classes in place of the data's, which need not be there when a configuration is checked."""
        return ("a", "b")

    def check_towers(self, modalities: Mapping[str, TokenizerConfig], models: Mapping[str, HierarchyConfig]) -> None:
        """Checks what the task sets about towers.

        Args:
            modalities: by tower.
            models: by tower.

        Raises:
            ConfigError: it names an unknown tower, or one that cannot do what is asked of it.
        """

    @abstractmethod
    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Collator:
        """Makes batches of samples.

        Args:
            models: the hierarchies by tower.
            tokenizers: by tower.
            classes: names of the training set's labels, where they are classes.
        """

    @abstractmethod
    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Task:
        """The task's module over the towers of a run; a task over one modality has one.

        Args:
            models: the hierarchies by tower.
            tokenizers: by tower; they give the axes and the embeddings.
            classes: names of the training set's labels, where they are classes.

        Raises:
            ConfigError: the models cannot serve this task; names the keys.
        """
