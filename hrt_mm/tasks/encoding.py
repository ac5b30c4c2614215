"""Shared by the tasks over encoders, with what is special to one encoder: its configuration and its collation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import SINGLE, Tokenizer, only_tokenizer
from .base import Collator, Task, TaskConfig
from .batch import Batch, TowerTokens
from .encoder import Encoder, finite, first_nonfinite


class EncoderTaskConfig(TaskConfig):
    """A task over one modality."""

    def values(self, samples: Sequence[Sample]) -> list[Any]:
        """What is tokenized of the samples: the same number of sequences of each, one after another.

        Raises:
            BadSample: a value is not what the task needs.
        """
        return [sample.value for sample in samples]

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Collator:
        """Makes batches of samples."""
        return SingleCollator(self, models, tokenizers, classes)

    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Task:
        """The task's module over the only tower."""
        (model,) = models.values()
        return self.build(model, only_tokenizer(tokenizers), classes)

    @abstractmethod
    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Task:
        """The task's module: embedding, hierarchy, head and loss.

        Args:
            model: the hierarchy's configuration.
            tokenizer: gives the axes and the embedding.
            classes: names of the training set's labels, where they are classes.

        Raises:
            ConfigError: the model cannot serve this task; names the keys.
        """

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor | None:
        """What the loss compares with, from the samples' labels.

        By default ``None``: the tokens are their own target, or the task's collator makes the targets.

        Raises:
            BadSample: a label that is not one of the training set's.
        """
        return None


class SingleCollator(Collator):
    """Collation for a task over one tower.

    Args:
        config: of the task.
        models: the hierarchy by tower.
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(
        self,
        config: EncoderTaskConfig,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> None:
        super().__init__(tokenizers, classes)
        self.config, self.tokenizer = config, only_tokenizer(tokenizers)
        self.model = next(iter(models.values()), None)

    def values(self, sample: Sample, tower: str) -> list[Any]:
        """The values of a sample: one, or several that are one sample together."""
        return self.config.values([sample])

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens of the only tower: the same number of sequences of each sample."""
        tokens = self.tokenizer(self.config.values(samples))
        return {SINGLE: TowerTokens.of(tokens, len(samples))}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples."""
        towers = self.towers(samples)
        return Batch(towers, self.targets(samples, towers[SINGLE].tokens), tuple(sample.name for sample in samples))

    def targets(self, samples: Sequence[Sample], tokens: Tokens) -> Tensor | None:
        """What the loss compares with; ``None`` where the tokens are their own target."""
        return self.config.targets(samples, tokens, self.classes)


class TowerTask(Task):
    """A task over the pyramids of one or several towers."""

    towers: tuple[str, ...]
    """Their names."""

    @abstractmethod
    def encoder_of(self, tower: str) -> Encoder:
        """The encoder of a tower."""

    @abstractmethod
    def encoder_name(self, tower: str) -> str | None:
        """The module name of a tower's encoder; ``None`` if it is that of another tower."""

    def parameter_levels(self) -> dict[str, int | None]:
        """By parameter name, the level it belongs to, counted through all towers; ``None`` for embeddings and heads."""
        levels: dict[str, int | None] = {name: None for name, _ in self.named_parameters()}
        first = 0
        for tower in self.towers:
            encoder, prefix = self.encoder_of(tower), self.encoder_name(tower)
            # Shared weights have the level of the tower that owns them.
            if prefix is not None:
                for name, level in encoder.parameter_levels().items():
                    levels[f"{prefix}.{name}"] = level if level is None else first + level
            first += len(encoder.hierarchy.config.levels)
        return levels

    def lr_scales(self) -> Sequence[float]:
        """The learning-rate multiplier of each level, through all towers."""
        return [level.lr_scale for tower in self.towers for level in self.encoder_of(tower).hierarchy.config.levels]

    @torch.no_grad()
    def nonfinite_source(self, batch: Batch) -> str:
        """Where a non-finite value first appears: the input, an embedding, a level, a head or a part of the loss."""
        for tower, part in batch.towers.items():
            x = part.tokens.x
            if not finite(x):
                rows = (~torch.isfinite(x)).flatten(1).any(1) if x.ndim > 1 else ~torch.isfinite(x)
                name = batch.name(tower, int(part.tokens.spans.ids[rows.nonzero()[0, 0]]))
                return f"the input{_of(tower)} ({name})"
        with first_nonfinite(self) as modules:
            output = self(batch)
        if modules:
            return f"{self._part_of(modules[0])} ({modules[0]})"
        return next((f"the loss {name!r}" for name, part in output.parts.items() if not finite(part)), "the loss")

    def _part_of(self, module: str) -> str:
        for tower in self.towers:
            prefix = self.encoder_name(tower)
            if prefix is not None and module.startswith(f"{prefix}."):
                return f"{self.encoder_of(tower).level_of(module.removeprefix(f'{prefix}.'))}{_of(tower)}"
        return "the head"


def _of(tower: str) -> str:
    return f" of {tower}" if tower != SINGLE else ""


class EncoderTask(TowerTask):
    """A task over the pyramid of one encoder.

    Args:
        config: the hierarchy.
        tokenizer: gives the axes and the embedding.
        reads: places of the levels that the loss reads.

    Raises:
        ConfigError: a part of the hierarchy would change nothing in the levels that are read.
    """

    towers = (SINGLE,)

    def __init__(self, config: HierarchyConfig, tokenizer: Tokenizer, reads: Sequence[int]) -> None:
        super().__init__()
        check_reads(config, reads)
        self.encoder = Encoder(config, tokenizer)
        # Every part of the hierarchy reaches a level that is read, in every batch.
        self.leaves_unused = any(getattr(part, "leaves_unused", False) for part in self.encoder.modules())

    def encoder_of(self, tower: str) -> Encoder:
        """The only encoder."""
        return self.encoder

    def encoder_name(self, tower: str) -> str:
        """Its module name."""
        return "encoder"


def check_reads(config: HierarchyConfig, reads: Sequence[int]) -> None:
    """Checks that every part of the hierarchy reaches a level that a task reads.

    The passes run in this order: up by pooling; down (``top_down``, ``cross_scale.down``), which carries coarse levels
    to finer ones; up again (``cross_scale.up``), which carries finer levels to coarse ones.

    Args:
        config: the hierarchy.
        reads: places of the levels that are read.

    Raises:
        ConfigError: a part changes nothing that is read, so it would train nothing; says what to set.
    """
    names = [level.name for level in config.levels]
    lowest, highest, top = min(reads), max(reads), len(names) - 1
    read = ", ".join(repr(names[index]) for index in sorted(set(reads)))
    down = [key for key, on in (("top_down", config.top_down), ("cross_scale.down", config.cross_scale.down)) if on]
    if config.cross_scale.up and highest < top:
        raise ConfigError(
            f"model.cross_scale.up is the last pass, into level {names[top]!r}, and the task reads only {read}; "
            f"drop it, or let task.level be {names[top]!r}"
        )
    if down and not config.cross_scale.up and lowest > 0:
        raise ConfigError(
            f"model.{down[0]} carries coarse levels down to {names[0]!r}, and the task reads only {read}; drop it, "
            f"read {names[0]!r}, or set model.cross_scale.up, which carries the result up again"
        )
    if not down and highest < top:
        raise ConfigError(
            f"level {names[top]!r} lies above all that the task reads ({read}), and nothing carries it down; set "
            f"model.top_down or model.cross_scale.down, or drop the levels above {names[highest]!r}"
        )
