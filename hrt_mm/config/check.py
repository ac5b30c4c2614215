"""Finds the impossible models that no single component can see: it builds the task, without memory for its weights."""

from __future__ import annotations

from functools import partial

import torch

from ..errors import ConfigError
from ..levels import GivenGroups, blocks
from .sections import RunConfig

STAND_INS = ("a", "b")
"""Classes, in place of the data's: the data need not be there yet."""


def check(config: RunConfig) -> None:
    """Builds a configuration's tokenizer and task on the meta device.

    Raises:
        ConfigError: they cannot be built; names the keys.
    """
    tokenizer = config.modality.build(partial(blocks, config.model))
    for level in config.model.levels:
        if isinstance(level.group, GivenGroups) and level.group.boundary not in tokenizer.boundaries:
            known = f"one of {', '.join(tokenizer.boundaries)}" if tokenizer.boundaries else "it gives none"
            raise ConfigError(
                f"model.levels.{level.name}.group.boundary: the modality {config.modality.type} gives no boundary "
                f"{level.group.boundary!r} ({known}); group by a fixed stride, or let the model learn the groups"
            )
    with torch.device("meta"):
        config.task.build(config.model, tokenizer, STAND_INS)
