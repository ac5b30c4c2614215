"""Checks a configuration as a whole, by building its model on the meta device, which allocates no weights."""

from __future__ import annotations

import torch

from ..core.errors import ConfigError
from ..core.initial_weights import weights_replaced
from ..core.levels import GivenGroups, LearnedGroups
from ..data.capabilities import causal_boundaries
from ..data.tokenizer import Tokenizer
from .build import build_task, build_tokenizers, check_towers, path_of
from .callbacks import registered
from .loggers import check_loggers
from .pretrain import pretraining
from .run_config import RunConfig, TowerConfig


def check(config: RunConfig) -> None:
    """Builds a configuration's tokenizers and task on the meta device.

    Raises:
        ConfigError: they cannot be built, or a logger or callback is not installed; names the keys.
    """
    check_towers(config)
    check_loggers(config.train.loggers)
    registered(config.train.callbacks)
    tokenizers = build_tokenizers(config)
    for name_of_tower, tower in config.towers.items():
        path, reader = path_of(name_of_tower), tokenizers[name_of_tower]
        for level in tower.model.levels:
            if isinstance(level.group, GivenGroups):
                _check_boundary(path, tower, reader, level.name, level.group.boundary)
            uncertain = isinstance(level.group, LearnedGroups) and level.group.signal == "uncertainty"
            if uncertain and config.task.predicted_tower != name_of_tower:
                raise ConfigError(
                    f"{path}model.levels.{level.name}.group.signal: uncertainty is learned from the prediction of next "
                    f"tokens, which task {config.task.type} does not train here; take difference"
                )
            if isinstance(level.group, LearnedGroups) and level.group.supervise not in (None, *reader.boundaries):
                key, name = f"{path}model.levels.{level.name}.group.supervise", str(level.group.supervise)
                raise _unknown(tower, reader.boundaries, key, name, "name another, or drop it")
        for name in config.task.boundaries:
            if name not in reader.boundaries:
                raise _unknown(tower, reader.boundaries, "task.unit", name, "name another, or none")
    with torch.device("meta"), weights_replaced():
        build_task(config, tokenizers, config.task.stand_ins)
    if config.train.pretrain is not None:
        try:
            check(pretraining(config, config.train.pretrain))
        except ConfigError as error:
            raise ConfigError(f"train.pretrain: {error}") from error


def _check_boundary(path: str, tower: TowerConfig, tokenizer: Tokenizer, level: str, name: str) -> None:
    """Checks that the modality gives this boundary and, for a causal model, without looking ahead."""
    key = f"{path}model.levels.{level}.group.boundary"
    usable = causal_boundaries(tokenizer) if tower.model.causal else tokenizer.boundaries
    if name in usable:
        return
    available = f"one of {', '.join(usable)}" if usable else "it gives none"
    if name in tokenizer.boundaries:
        raise ConfigError(
            f"{key}: where the {name!r} start depends on later tokens, which model.causal must not see; "
            f"take {available}, group by a fixed stride, or let the model learn the groups"
        )
    raise _unknown(tower, usable, key, name, "group by a fixed stride, or let the model learn the groups")


def _unknown(tower: TowerConfig, usable: tuple[str, ...], key: str, name: str, fix: str) -> ConfigError:
    available = f"one of {', '.join(usable)}" if usable else "it gives none"
    return ConfigError(f"{key}: the modality {tower.modality.type} gives no boundary {name!r} ({available}); {fix}")
