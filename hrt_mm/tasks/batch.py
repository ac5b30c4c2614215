"""Batches: samples as tokens of one or several towers, with their targets.

Shapes: B samples, n sequences of tokens of a tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.tokens import Tokens
from ..data.tokenizer import SINGLE
from .pieces import Pieces


@dataclass(frozen=True, eq=False)
class TowerTokens:
    """The tokens of a batch that one tower reads.

    Args:
        tokens: n sequences: one or more of each sample that has this modality, packed.
        samples: (n,) int64: index in the batch of the sample that each sequence is of; on the host.
        contents: (n,) int64: fingerprints of the raw tokens, equal where these are; on the host. Empty where the task
            does not compare samples.
        pieces: by tier, pieces of the samples that the task compares.
    """

    tokens: Tokens
    samples: Tensor
    contents: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    pieces: Mapping[str, Pieces] = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: Tokens, samples: int) -> TowerTokens:
        """The tokens of some samples with the same number of sequences each, one sample after another."""
        return cls(tokens, torch.arange(len(tokens)) * samples // max(1, len(tokens)))

    def some(self, first: int, last: int) -> TowerTokens:
        """The sequences from ``first`` up to and excluding ``last``."""
        pieces = {tier: own.some(first, last) for tier, own in self.pieces.items()}
        tokens, samples = self.tokens.slice_samples(first, last), self.samples[first:last]
        return TowerTokens(tokens, samples, self.contents[first:last], pieces)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as tokens with their targets.

    Args:
        towers: by name, the tokens of each tower; a tower that no sample of the batch has is left out.
        target: what the loss compares with, (B, ...) or (T, ...) as the task says; ``None`` for none.
        names: of the samples.
        groups: (B,) int64: samples of one group are of one thing, and positives of each other; on the host. ``None``
            where the task does not compare samples.
    """

    towers: Mapping[str, TowerTokens]
    target: Tensor | None = None
    names: tuple[str, ...] = ()
    groups: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tokens, target: Tensor | None = None, names: tuple[str, ...] = ()) -> Batch:
        """A batch of one tower.

        Args:
            tokens: the same number of sequences of each sample, one sample after another.
            target: what the loss compares with.
            names: of the samples; each sequence is a sample without them.
        """
        return cls({SINGLE: TowerTokens.of(tokens, len(names) or len(tokens))}, target, names)

    def __len__(self) -> int:
        """Number of samples."""
        last = (int(tower.samples.max()) for tower in self.towers.values() if len(tower.samples))
        return len(self.names) or max(last, default=-1) + 1

    @property
    def tokens(self) -> Tokens:
        """The tokens of the only tower."""
        (tower,) = self.towers.values()
        return tower.tokens

    def name(self, tower: str, sequence: int) -> str:
        """The name of the sample that a sequence of a tower's tokens is of."""
        sample = int(self.towers[tower].samples[sequence])
        return self.names[sample] if self.names else f"sample {sample} of the batch"

    @property
    def num_tokens(self) -> int:
        """Level-0 tokens of all towers."""
        return sum(tower.tokens.spans.total for tower in self.towers.values())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        target = self.target.to(device, non_blocking=True) if self.target is not None else None
        towers = {name: replace(tower, tokens=tower.tokens.to(device)) for name, tower in self.towers.items()}
        return replace(self, towers=towers, target=target)

    def pin_memory(self) -> Batch:
        """The same batch in pinned host memory."""
        target = self.target.pin_memory() if self.target is not None else None
        towers = {name: replace(tower, tokens=tower.tokens.pin_memory()) for name, tower in self.towers.items()}
        return replace(self, towers=towers, target=target)
