"""The subject of a report: a trained run, its encoders, and held-out samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

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
from ...tasks.batch import Batch
from ...tasks.encoder import Encoder
from ...tasks.encoding import TowerTask
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
        tower: the one to report on. Sections on the whole run draw samples of the first.
    """

    run: TrainedRun
    ranks: ProcessGroup
    split: str
    tower: str

    @classmethod
    def of(cls, run: TrainedRun, ranks: ProcessGroup) -> Subject:
        """A subject with the first available split and the first tower.

        Raises:
            ConfigError: there is none.
        """
        reasons: dict[str, list[str]] = {}
        for split in SPLITS:
            try:
                build_dataset(run.config, split)
            except ConfigError as error:
                reasons.setdefault(str(error), []).append(split)
                continue
            run.task.to(ranks.device)
            return cls(run, ranks, split, next(iter(run.config.towers)))
        lines = [f"{', '.join(splits)}: {reason}" for reason, splits in reasons.items()]
        raise ConfigError(
            f"a report needs samples, and the data of the run gives none{run.path_hint()}\n" + "\n".join(lines)
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.ranks.device

    @cached_property
    def towers(self) -> tuple[Subject, ...]:
        """A subject for each tower of the run."""
        return tuple(replace(self, tower=name) for name in self.run.config.towers)

    @cached_property
    def encoder(self) -> Encoder:
        """The tower's encoder."""
        task = self.run.task
        assert isinstance(task, TowerTask)
        return task.encoder_of(self.tower)

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
        """The modality of the tower."""
        return modalities()[self.run.config.towers[self.tower].modality.type]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tower."""
        return self.run.tokenizers[self.tower]

    def sample(self, index: int) -> Sample | None:
        """A sample with the value that this tower reads, the first of several; ``None`` if it has none.

        Raises:
            BadSample: the sample cannot be read.
        """
        sample = self.dataset[index]
        values = self.run.collator.values(sample, self.tower)
        return replace(sample, value=values[0]) if values else None

    def missing(self) -> bool:
        """Whether no sample of the split has a value for this tower. One that cannot be read may have one."""
        try:
            return all(self.sample(index) is None for index in range(len(self.dataset)))
        except BadSample:
            return False

    def tokens(self, batch: Batch) -> Tokens | None:
        """The raw tokens of a batch for this tower, if any."""
        tower = batch.towers.get(self.tower)
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
                tokens = self.tokenizer([sample.value])
            except BadSample as error:
                log.warning("left out of the pictures: %s", error)
                continue
            if tokens.spans.total:
                yield sample, self.view(tokens)
