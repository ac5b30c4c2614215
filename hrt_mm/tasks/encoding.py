"""Shared by the tasks over encoders: levels that can be read, parameters by level, and the source of a NaN."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..data.tokenizer import SINGLE
from .base import Task
from .batch import Batch
from .encoder import Encoder, finite, first_nonfinite

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


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
