"""Finds the impossible models that no single component can see: it builds the task, without memory for its weights."""

from __future__ import annotations

from functools import partial

import torch

from ..errors import ConfigError
from ..levels import GivenGroups, blocks
from ..modality import Tokenizer
from ..train.pretrain import pretraining
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
        if isinstance(level.group, GivenGroups):
            _check_boundary(config, tokenizer, f"model.levels.{level.name}.group.boundary", level.group.boundary)
    for name in config.task.boundaries:
        if name not in tokenizer.boundaries:
            raise _unknown(config, tokenizer.boundaries, "task.unit", name, "name another, or none")
    with torch.device("meta"):
        config.task.build(config.model, tokenizer, STAND_INS)
    if config.train.pretrain is not None:
        _check_pretraining(pretraining(config, config.train.pretrain))


def _check_pretraining(config: RunConfig) -> None:
    try:
        check(config)
    except ConfigError as error:
        raise ConfigError(f"train.pretrain: {error}") from error


def _check_boundary(config: RunConfig, tokenizer: Tokenizer, key: str, name: str) -> None:
    """A boundary that the modality gives, and in a causal model one that does not look ahead."""
    usable = tokenizer.causal_boundaries if config.model.causal else tokenizer.boundaries
    if name in usable:
        return
    known = f"one of {', '.join(usable)}" if usable else "it gives none"
    if name in tokenizer.boundaries:
        raise ConfigError(
            f"{key}: where the {name!r} start depends on later tokens, which model.causal must not see; "
            f"take {known}, group by a fixed stride, or let the model learn the groups"
        )
    raise _unknown(config, usable, key, name, "group by a fixed stride, or let the model learn the groups")


def _unknown(config: RunConfig, usable: tuple[str, ...], key: str, name: str, way_out: str) -> ConfigError:
    known = f"one of {', '.join(usable)}" if usable else "it gives none"
    return ConfigError(f"{key}: the modality {config.modality.type} gives no boundary {name!r} ({known}); {way_out}")
