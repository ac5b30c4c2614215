"""The subject of a report: a trained run, its encoders, and held-out samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from ...core.errors import BadSample, ConfigError
from ...core.tokens import Tokens
from ...data.capabilities import Drawing
from ...data.dataset import Dataset
from ...data.modality import Modality
from ...data.registry import modalities
from ...data.sample import Sample
from ...data.tokenizer import SINGLE, Tokenizer
from ...inference.trained import TrainedRun
from ...tasks.batch import Batch
from ...tasks.encoder import Encoder
from ...tasks.joint import JointTask
from ...train.build import build_dataset
from ...train.distributed import ProcessGroup
from ...train.evaluate import EvaluationLoader
from ...train.precision import autocast
from .view import Backdrop, View

log = logging.getLogger(__name__)

SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Subject:
    """A run to report on.

    Args:
        run: the trained run, on the device of ``ranks``.
        ranks: a group of this process alone.
        split: that samples are taken from: ``test`` if there is one.
        tower: of several towers, the one to report on; ``None`` for the run itself.
    """

    run: TrainedRun
    ranks: ProcessGroup
    split: str
    tower: str | None = None

    @classmethod
    def of(cls, run: TrainedRun, ranks: ProcessGroup) -> Subject:
        """A subject with the first available split.

        Raises:
            ConfigError: there is none.
        """
        reasons = []
        for split in SPLITS:
            try:
                build_dataset(run.config, split)
            except ConfigError as error:
                reasons.append(f"{split}: {error}")
                continue
            run.task.to(ranks.device)
            return cls(run, ranks, split)
        raise ConfigError("a report needs samples, and the data of the run gives none:\n" + "\n".join(reasons))

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.ranks.device

    @cached_property
    def towers(self) -> tuple[Subject, ...]:
        """The subjects with an encoder: the run itself, or each of its towers."""
        names = self.run.config.towers
        return (self,) if names is None else tuple(replace(self, tower=name) for name in names)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The tower's encoder, or the first one of the task, if any."""
        if self.tower is not None:
            task = self.run.task
            assert isinstance(task, JointTask)
            return task.encoder_of(self.tower)
        return next((module for module in self.run.task.modules() if isinstance(module, Encoder)), None)

    @cached_property
    def dataset(self) -> Dataset:
        """The samples."""
        dataset = self.run.config.data.plain(self.split)
        dataset.limit_towers(self.run.tokenizers)
        return dataset

    @cached_property
    def loader(self) -> EvaluationLoader:
        """The samples in batches."""
        return self.run.loader(self.split, self.ranks)

    @cached_property
    def backdrop(self) -> Backdrop | None:
        """Draws samples of the modality, if it can."""
        return self.modality.figures() if issubclass(self.modality, Drawing) else None

    @property
    def modality(self) -> type[Modality]:
        """The modality of the samples.

        Raises:
            ConfigError: there are several towers, and none is selected.
        """
        config = self.run.config
        tower = config.single if config.towers is None or self.tower is None else config.towers[self.tower]
        return modalities()[tower.modality.type]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tower."""
        return self.run.tokenizer if self.tower is None else self.run.tokenizers[self.tower]

    def sample(self, index: int) -> Sample | None:
        """A sample with the value for this tower; ``None`` if it has none.

        Raises:
            BadSample: the sample cannot be read.
        """
        sample = self.dataset[index]
        if self.tower is None:
            return sample
        value = sample.value.get(self.tower)
        return None if value is None else replace(sample, value=value)

    def values(self, sample: Sample) -> list[Any]:
        """The values of a sample to tokenize: its only one, or the first of several."""
        return [sample.value] if self.tower is not None else self.run.config.task.values([sample])[:1]

    def missing(self) -> bool:
        """Whether no sample of the split has a value for this tower."""
        return self.tower is not None and next(self._readable(), None) is None

    def tokens(self, batch: Batch) -> Tokens | None:
        """The raw tokens of a batch for this tower, if any."""
        tower = batch.towers.get(self.tower or SINGLE)
        return None if tower is None else tower.tokens

    def batches(self, limit: int) -> Iterator[Batch]:
        """Batches of at least ``limit`` samples, on the device, under the run's autocast and without gradients."""
        seen = 0
        cast = autocast(self.run.config.train.precision, self.device)
        for batch in self.loader:
            if seen >= limit:
                return
            seen += len(batch)
            with torch.no_grad(), cast():
                yield batch.to(self.device)

    def packs(self, limit: int) -> Iterator[Tokens]:
        """The raw tokens of this tower in :meth:`batches`."""
        return (tokens for batch in self.batches(limit) if (tokens := self.tokens(batch)) is not None)

    def views(self, count: int) -> list[tuple[Sample, View]]:
        """The first readable, non-empty samples, with different labels where possible.

        Raises:
            ConfigError: there are none.
        """
        candidates = list(islice(self._readable(), 16 * count))
        if not candidates:
            raise ConfigError(f"no sample of the {self.split} split can be drawn: none can be read")
        # The first sample of each label, then the second of each, and so on.
        occurrences: dict[str, int] = {}
        keyed = []
        for index, (sample, view) in enumerate(candidates):
            label = str(sample.label)
            occurrences[label] = occurrences.get(label, 0) + 1
            keyed.append((occurrences[label], index, (sample, view)))
        return [pair for _, _, pair in sorted(keyed, key=lambda entry: entry[:2])[:count]]

    def view(self, tokens: Tokens) -> View:
        """A view of one sample's raw tokens."""
        return View(self.tokenizer, tokens, self.backdrop)

    def _readable(self) -> Iterator[tuple[Sample, View]]:
        for index in range(len(self.dataset)):
            try:
                sample = self.sample(index)
                if sample is None:
                    continue
                tokens = self.tokenizer(self.values(sample))
            except BadSample as error:
                log.warning("left out of the pictures: %s", error)
                continue
            if tokens.spans.total:
                yield sample, self.view(tokens)
