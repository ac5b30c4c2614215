"""What a report is about: a trained run, its encoders, and samples it was not trained on."""

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
from ...data.tokenizer import Tokenizer
from ...inference.trained import TrainedRun
from ...tasks.base import Batch
from ...tasks.encoder import Encoder
from ...tasks.joint import JointBatch, JointTask, JointTokenizer
from ...train.build import build_dataset
from ...train.distributed import ProcessGroup
from ...train.evaluate import EvaluationLoader
from ...train.precision import autocast
from .view import Backdrop, View

log = logging.getLogger(__name__)

SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Subject:
    """A run to look into.

    Args:
        run: with its weights, on the device of ``ranks``.
        ranks: this process.
        split: where samples come from: ``test``, or what there is.
        tower: the one of several towers that is looked into; ``None`` for the whole run.
    """

    run: TrainedRun
    ranks: ProcessGroup
    split: str
    tower: str | None = None

    @classmethod
    def of(cls, run: TrainedRun, ranks: ProcessGroup) -> Subject:
        """The run with the first split that its data has.

        Raises:
            ConfigError: it has none.
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
        """Where it computes."""
        return self.ranks.device

    @cached_property
    def towers(self) -> tuple[Subject, ...]:
        """The parts of the run that have an encoder: the run itself, or each of its towers."""
        names = self.run.config.towers
        return (self,) if names is None else tuple(replace(self, tower=name) for name in names)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The tower's encoder, or the first one of the task; ``None`` where it has none."""
        if self.tower is not None:
            task = self.run.task
            assert isinstance(task, JointTask)
            return task.encoder_of(self.tower)
        return next((module for module in self.run.task.modules() if isinstance(module, Encoder)), None)

    @cached_property
    def dataset(self) -> Dataset:
        """The samples."""
        dataset = self.run.config.data.plain(self.split)
        dataset.limit(self.run.tokenizer)
        return dataset

    @cached_property
    def loader(self) -> EvaluationLoader:
        """The samples in batches."""
        return self.run.loader(self.split, self.ranks)

    @cached_property
    def backdrop(self) -> Backdrop | None:
        """Draws samples of this modality; ``None`` where it does not say how."""
        return self.modality.figures() if issubclass(self.modality, Drawing) else None

    @property
    def modality(self) -> type[Modality]:
        """Of the samples.

        Raises:
            ConfigError: there are several towers, and this is none of them.
        """
        config = self.run.config
        tower = config.single if config.towers is None or self.tower is None else config.towers[self.tower]
        return modalities()[tower.modality.type]

    @property
    def tokenizer(self) -> Tokenizer:
        """Packs values of this tower."""
        tokenizer = self.run.tokenizer
        if self.tower is None:
            return tokenizer
        assert isinstance(tokenizer, JointTokenizer)
        return tokenizer.towers[self.tower]

    def sample(self, index: int) -> Sample | None:
        """A sample with the value that this tower reads; ``None`` where it has none.

        Raises:
            BadSample: it cannot be read.
        """
        sample = self.dataset[index]
        if self.tower is None:
            return sample
        value = sample.value.get(self.tower)
        return None if value is None else replace(sample, value=value)

    def values(self, sample: Sample) -> list[Any]:
        """What the tokenizer takes of what :meth:`sample` gave: its value, or the first of several."""
        return [sample.value] if self.tower is not None else self.run.config.task.values([sample])[:1]

    def missing(self) -> bool:
        """Whether no sample of the split has this tower's modality; reads until one has."""
        return self.tower is not None and next(self._readable(), None) is None

    def tokens(self, batch: Batch) -> Tokens | None:
        """The raw tokens that a batch has of this tower; ``None`` where it has none."""
        if self.tower is None:
            return batch.tokens
        assert isinstance(batch, JointBatch)
        part = batch.parts.get(self.tower)
        return None if part is None else part.tokens

    def batches(self, most: int) -> Iterator[Batch]:
        """Batches on the device until ``most`` samples were given, in the run's precision, without gradients."""
        seen = 0
        cast = autocast(self.run.config.train.precision, self.device)
        for batch in self.loader:
            if seen >= most:
                return
            seen += len(batch)
            with torch.no_grad(), cast():
                yield batch.to(self.device)

    def packs(self, most: int) -> Iterator[Tokens]:
        """The raw tokens of this tower in those batches."""
        return (tokens for batch in self.batches(most) if (tokens := self.tokens(batch)) is not None)

    def views(self, count: int) -> list[tuple[Sample, View]]:
        """The first samples that can be read and have tokens, of different labels as far as there are.

        Raises:
            ConfigError: there is none.
        """
        found = list(islice(self._readable(), 16 * count))
        if not found:
            raise ConfigError(f"no sample of the {self.split} split can be drawn: none can be read")
        labels: dict[str, int] = {}
        ranked = []
        for place, (sample, view) in enumerate(found):
            label = str(sample.label)
            labels[label] = labels.get(label, 0) + 1
            ranked.append((labels[label], place, (sample, view)))
        return [pair for _, _, pair in sorted(ranked, key=lambda entry: entry[:2])[:count]]

    def view(self, tokens: Tokens) -> View:
        """One sample's raw tokens, to be drawn."""
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
