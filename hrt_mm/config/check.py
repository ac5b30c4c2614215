"""Finds the impossible models that no single component can see: it builds the task, without memory for its weights."""

from __future__ import annotations

from functools import partial

import torch

from ..levels import blocks
from .sections import RunConfig

STAND_INS = ("a", "b")
"""Classes, in place of the data's: the data need not be there yet."""


def check(config: RunConfig) -> None:
    """Builds a configuration's tokenizer and task on the meta device.

    Raises:
        ConfigError: they cannot be built; names the keys.
    """
    tokenizer = config.modality.build(partial(blocks, config.model))
    with torch.device("meta"):
        config.task.build(config.model, tokenizer, STAND_INS)
