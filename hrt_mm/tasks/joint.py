"""What the tasks over several towers share: batches of named parts, in which a modality may be missing.

Shapes: B samples, n those of them that have a modality.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import BadSample
from ..core.levels import HierarchyConfig
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer
from .base import Task, TaskConfig
from .batch import Batch, TowerTokens
from .collation import Collator
from .encoder import Encoder, finite, first_nonfinite
from .fingerprints import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator


class JointTaskConfig(TaskConfig):
    """A task over several towers."""

    joint: ClassVar[bool] = True

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

    @abstractmethod
    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Task:
        """The task's module."""


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


class JointTask(Task):
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

    def parameter_levels(self) -> dict[str, int | None]:
        """By parameter name, the level it belongs to, counted through all towers; ``None`` for embeddings and heads."""
        levels: dict[str, int | None] = {name: None for name, _ in self.named_parameters()}
        first = 0
        for tower in self.towers:
            encoder = self.encoder_of(tower)
            if tower not in self.shared:
                for name, level in encoder.parameter_levels().items():
                    levels[f"encoders.{tower}.{name}"] = level if level is None else first + level
            first += len(encoder.hierarchy.config.levels)
        return levels

    def lr_scales(self) -> Sequence[float]:
        """The learning-rate multiplier of each level, through all towers."""
        return [level.lr_scale for tower in self.towers for level in self.encoder_of(tower).hierarchy.config.levels]

    @torch.no_grad()
    def nonfinite_source(self, batch: Batch) -> str:
        """Where a non-finite value first appears: the input, a tower's level, a head or a part of the loss."""
        for tower, part in batch.towers.items():
            if not finite(part.tokens):
                x = part.tokens.x
                rows = (~torch.isfinite(x)).flatten(1).any(1) if x.ndim > 1 else ~torch.isfinite(x)
                name = batch.name(tower, int(part.tokens.spans.ids[rows.nonzero()[0, 0]]))
                return f"the input of {tower} ({name})"
        with first_nonfinite(self) as found:
            output = self(batch)
        if found:
            return self._place(found[0])
        return next((f"the loss {name!r}" for name, part in output.parts.items() if not finite(part)), "the loss")

    def _place(self, module: str) -> str:
        for tower in self.encoders:
            prefix = f"encoders.{tower}."
            if module.startswith(prefix):
                return f"{self.encoder_of(tower).level_of(module.removeprefix(prefix))} of {tower} ({module})"
        return f"the head ({module})"


def group_ids(samples: Sequence[Sample]) -> Tensor:
    """(B,) int64: equal where the labels are, on every rank and in every batch; of a sample without one, its name's."""
    return torch.tensor([fingerprint(*_group(sample)) for sample in samples], dtype=torch.int64)


def _group(sample: Sample) -> tuple[str, bytes]:
    return ("name", sample.name.encode()) if sample.label is None else ("label", str(sample.label).encode())


def contents(tokens: Tokens) -> Tensor:
    """(n,) int64 fingerprints of each sample's raw tokens."""
    return torch.tensor([fingerprint(str(tuple(x.shape)), raw) for x, raw in _raw(tokens)], dtype=torch.int64)


def _raw(tokens: Tokens) -> Iterator[tuple[Tensor, bytes]]:
    for x in tokens.split():
        yield x, x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""
