"""Shared by the tasks over one encoder: levels that can be read, parameters by level, and the source of a NaN."""

from __future__ import annotations

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


class EncoderTask(Task):
    """A task over the pyramid of one encoder.

    Args:
        config: the hierarchy.
        tokenizer: gives the axes and the embedding.
        reads: places of the levels that the loss reads.

    Raises:
        ConfigError: a part of the hierarchy would change nothing in the levels that are read.
    """

    def __init__(self, config: HierarchyConfig, tokenizer: Tokenizer, reads: Sequence[int]) -> None:
        super().__init__()
        check_reads(config, reads)
        self.encoder = Encoder(config, tokenizer)
        # Every part of the hierarchy reaches a level that is read, in every batch.
        self.leaves_unused = any(getattr(part, "leaves_unused", False) for part in self.encoder.modules())

    def parameter_levels(self) -> dict[str, int | None]:
        """The level of each parameter by name; ``None`` for the embedding and the head."""
        levels = self.encoder.parameter_levels()
        return {name: levels.get(name.removeprefix("encoder.")) for name, _ in self.named_parameters()}

    def lr_scales(self) -> Sequence[float]:
        """The learning-rate multiplier of each level."""
        return [level.lr_scale for level in self.encoder.hierarchy.config.levels]

    @torch.no_grad()
    def nonfinite_source(self, batch: Batch) -> str:
        """Where a non-finite value first appears: the input, the embedding, a level, the head or a part of the loss."""
        x = batch.tokens.x
        if not finite(x):
            rows = (~torch.isfinite(x)).flatten(1).any(1) if x.ndim > 1 else ~torch.isfinite(x)
            return f"the input ({batch.name(SINGLE, int(batch.tokens.spans.ids[rows.nonzero()[0, 0]]))})"
        with first_nonfinite(self) as names:
            output = self(batch)
        if names:
            return self._place(names[0])
        for name, part in output.parts.items():
            if not finite(part):
                return f"the loss {name!r}"
        return "the loss"

    def _place(self, module: str) -> str:
        inside = module.removeprefix("encoder.")
        return f"{self.encoder.level_of(inside) if inside != module else 'the head'} ({module})"


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
