"""What the tasks over several towers share: batches of named parts, in which a modality may be missing.

Shapes: B samples, n those of them that have a modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer, TokenizerConfig
from .base import Collator, TaskConfig
from .batch import Batch, TowerTokens
from .encoder import Encoder
from .encoding import TowerTask
from .fingerprints import fingerprint


class JointTaskConfig(TaskConfig):
    """A task over several towers."""

    shared: dict[str, str] = {}
    """By tower, another one of the same modality and model whose weights it has: one encoder reads both."""

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> JointCollator:
        """Makes batches of samples."""
        return JointCollator(self, tokenizers, classes)

    def labels(self, samples: Sequence[Sample], classes: tuple[str, ...] | None) -> Tensor | None:
        """What the loss compares with, from the samples' labels; ``None`` where samples are compared with each other.

        Raises:
            BadSample: a label that is not one of the training set's.
        """
        return None

    def check_towers(self, modalities: Mapping[str, TokenizerConfig], models: Mapping[str, HierarchyConfig]) -> None:
        """Checks that towers that share an encoder have the same modality and model."""
        for tower, other in self.shared.items():
            if unknown := [name for name in (tower, other) if name not in models]:
                raise ConfigError(f"task.shared names a tower {unknown[0]!r}; the towers are {', '.join(models)}")
            if other in self.shared:
                raise ConfigError(f"task.shared: {tower} cannot have the weights of {other}, which has none of its own")
            for key, configs in (("modality", modalities), ("model", models)):
                if configs[tower] != configs[other]:
                    raise ConfigError(
                        f"task.shared: {tower} cannot have {other}'s weights: their {key} differs; make it the same"
                    )


class JointCollator(Collator):
    """Collation for a task over several towers, whose samples are mappings by tower.

    Args:
        config: of the task.
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(
        self, config: JointTaskConfig, tokenizers: Mapping[str, Tokenizer], classes: tuple[str, ...] | None
    ) -> None:
        super().__init__(tokenizers, classes)
        self.config = config

    def values(self, sample: Sample, tower: str) -> list[Any]:
        """The value of a sample for a tower, if it has one."""
        value = sample.value.get(tower)
        return [] if value is None else [value]

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples. Samples with one label are one group; those without are each their own."""
        names = tuple(sample.name for sample in samples)
        target = self.config.labels(samples, self.classes)
        return Batch(self.towers(samples), target, names, group_ids(samples))

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """Packs each tower's values of the samples that have one. Modalities without a tower are left out.

        Raises:
            BadSample: a value is no mapping, has no known tower, or a tokenizer refuses it.
        """
        for sample in samples:
            self._check(sample)
        towers: dict[str, TowerTokens] = {}
        for name, tokenizer in self.tokenizers.items():
            indices = [index for index, sample in enumerate(samples) if sample.value.get(name) is not None]
            if indices:
                tokens = tokenizer([samples[index].value[name] for index in indices])
                towers[name] = TowerTokens(tokens, torch.tensor(indices), contents(tokens))
        return towers

    def _check(self, sample: Sample) -> None:
        towers = ", ".join(self.tokenizers)
        if not isinstance(sample.value, Mapping):
            kind = type(sample.value).__name__
            raise BadSample(sample.name, f"its value is {kind}; towers need a mapping by name ({towers})")
        if all(sample.value.get(name) is None for name in self.tokenizers):
            raise BadSample(sample.name, f"has none of the modalities {towers}")


class JointTask(TowerTask):
    """A task over one encoder for each tower, in ``encoders``.

    Args:
        models: the hierarchies by tower.
        tokenizers: by tower; they give the axes and the embeddings.
        shared: by tower, another one whose encoder reads it too.
    """

    def __init__(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        shared: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.towers, self.shared = tuple(models), dict(shared or {})
        self.encoders = nn.ModuleDict(
            {name: Encoder(model, tokenizers[name]) for name, model in models.items() if name not in self.shared}
        )

    def encoder_of(self, tower: str) -> Encoder:
        """The encoder of a tower."""
        encoder = self.encoders[self.shared.get(tower, tower)]
        assert isinstance(encoder, Encoder)
        return encoder

    def encoder_name(self, tower: str) -> str | None:
        """The module name of a tower's encoder; ``None`` if it is that of another tower."""
        return f"encoders.{tower}" if tower not in self.shared else None


def group_ids(samples: Sequence[Sample]) -> Tensor:
    """(B,) int64: equal where the labels are, on every rank and in every batch; of a sample without one, its name's."""
    keys = (("name", sample.name) if sample.label is None else ("label", str(sample.label)) for sample in samples)
    return torch.tensor([fingerprint(kind, text.encode()) for kind, text in keys], dtype=torch.int64)


def contents(tokens: Tokens) -> Tensor:
    """(n,) int64 fingerprints of each sample's raw tokens."""
    fingerprints = []
    for x in tokens.split():
        # A view of an empty tensor as bytes is an error.
        raw = x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""
        fingerprints.append(fingerprint(str(tuple(x.shape)), raw))
    return torch.tensor(fingerprints, dtype=torch.int64)
