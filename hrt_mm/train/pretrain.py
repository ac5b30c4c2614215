"""Starting from pre-trained weights.

``train.pretrain`` trains the encoder without labels in a run that comes first; ``train.init_from`` takes the encoder
of another run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.levels import HierarchyConfig
from ..data.hub import resolve
from ..data.splits import some
from ..data.tokenizer import SINGLE, Tokenizer
from ..tasks.base import Task
from .checkpoint import CheckpointError
from .config import PretrainConfig
from .folder import PRETRAIN, check_unused, run_dir
from .identity import check_same_classes, check_same_vocabularies
from .store import CheckpointStore, open_store
from .weights import assign, mismatches, named_weights, refuse

if TYPE_CHECKING:
    from .build import Data
    from .run_config import RunConfig

log = logging.getLogger(__name__)

InitFrom: TypeAlias = "Path | dict[str, Path] | None"
"""The value of ``train.init_from``: a run folder, or one for each of some towers."""


@dataclass(frozen=True)
class TrainingStage:
    """One of the runs that a configuration describes.

    Args:
        config: of the run.
        init_from: run folder whose encoder weights initialize it, or run folders by tower.
    """

    config: RunConfig
    init_from: InitFrom


def stages(config: RunConfig, *, resume: bool) -> list[TrainingStage]:
    """The runs to go through, in order: one, or two with pre-training.

    On resuming, a finished pre-training run is included: it takes no further step, but its configuration is checked.

    Args:
        config: of the run.
        resume: continue from what the run folder holds.

    Raises:
        ConfigError: the run folder is not empty, and the run is not resumed.
    """
    options, source = config.train.pretrain, config.train.init_from
    if options is None:
        return [TrainingStage(config, source)]
    folder = run_dir(config)
    if not resume:
        check_unused(folder)
    main_stage = TrainingStage(config, folder / PRETRAIN)
    main_stage_started = resume and CheckpointStore(folder).steps()
    return [main_stage] if main_stage_started else [TrainingStage(pretraining(config, options), source), main_stage]


def pretraining(config: RunConfig, options: PretrainConfig) -> RunConfig:
    """The configuration of the pre-training run.

    Args:
        config: of the run that follows.
        options: ``train.pretrain``.
    """
    changes: dict[str, object] = {"pretrain": None, "steps": options.steps, "time_limit": options.time_limit}
    # They are about the metrics of the run's own task.
    changes |= {"monitor": None, "monitor_mode": None, "early_stopping": None}
    if options.batch_size is not None or options.batch_tokens is not None:
        changes |= {"batch_size": options.batch_size, "batch_tokens": options.batch_tokens}
    return config.with_model(without_bottom_up(config.single.model)).model_copy(
        update={
            "task": options.task,
            "optim": options.optim or config.optim,
            "train": config.train.model_copy(update={"test": False, **changes}),
            "run": config.run.model_copy(update={"dir": run_dir(config) / PRETRAIN}),
        }
    )


def without_bottom_up(model: HierarchyConfig) -> HierarchyConfig:
    """The hierarchy for predicting its finest level: no cross-scale attention upwards, and always a way down."""
    cross_scale = model.cross_scale.model_copy(update={"up": False})
    top_down = model.top_down or (len(model.levels) > 1 and not cross_scale.down)
    return model.model_copy(update={"cross_scale": cross_scale, "top_down": top_down})


def initialize(task: Task, source: Path | Mapping[str, Path], data: Data) -> list[str]:
    """Initializes a task from the best weights of other runs, or their moving average if it was kept.

    Weights that a source lacks, such as those of a top-down path that only this model has, keep their random
    initialization, with a warning.

    Args:
        task: to initialize.
        source: a run folder, or ``hub:owner/name``, whose encoder weights are taken; or one for each tower. From a run
            over several towers, everything that belongs to the tower is taken; from a run over one tower, its encoder.
        data: of the task: tokenizers and classes.

    Returns:
        What was loaded, one line for each run.

    Raises:
        UserError: there is no such tower, or a source has no checkpoint, no weights of this encoder, other shapes,
            another vocabulary, or a head for other classes.
    """
    if isinstance(source, Path):
        return [_load(source, data, data.tokenizers, "encoder", _encoder(named_weights(task)))]
    lines = []
    for tower, folder in source.items():
        weights = {name: value for name, value in named_weights(task).items() if tower in name.split(".")[:-1]}
        if tower not in data.tokenizers or not weights:
            raise UserError(
                f"train.init_from names a tower {tower!r} that has no weights of its own; the towers are "
                f"{', '.join(data.tokenizers)}"
            )
        lines.append(_load(folder, data, {tower: data.tokenizers[tower]}, tower, weights))
    return lines


def _load(
    source: Path, data: Data, tokenizers: Mapping[str, Tokenizer], what: str, weights: Mapping[str, Tensor]
) -> str:
    """Copies weights of a run.

    Args:
        source: the run folder.
        data: of the task.
        tokenizers: by tower, of the weights.
        what: they are, for messages: ``encoder``, or the name of a tower.
        weights: of the task, which are set in place.
    """
    checkpoint = open_store(resolve(source)).read("best")
    saved = checkpoint.tensors("ema" if "ema" in checkpoint else "model")
    if what == "encoder":
        saved = _encoder(saved)
    elif any(name.startswith("encoder.") for name in saved):
        # A run over one tower does not name it.
        saved = {f"encoders.{what}{name.removeprefix('encoder')}": value for name, value in _encoder(saved).items()}
        tokenizers = {SINGLE: tokenizers[what]}
    else:
        saved = {name: value for name, value in saved.items() if what in name.split(".")[:-1]}
    check_same_vocabularies(checkpoint, tokenizers, "train with the same file, or without train.init_from")
    common = {name: value for name, value in weights.items() if name in saved}
    if not common:
        raise CheckpointError(
            f"train.init_from {source}: none of its {len(saved)} {what} weights are among the {len(weights)} of "
            "this model"
        )
    if _encoder(common).keys() != common.keys():
        # A head's outputs stand for classes in their order.
        check_same_classes(checkpoint, data.classes, "train on the same classes, or without train.init_from")
    refuse(mismatches(common, {name: saved[name] for name in common}), f"the {what} of {source}")
    for names, problem in (
        (weights.keys() - common.keys(), "weights are missing there and keep their random initialization"),
        (saved.keys() - common.keys(), "of its weights are not used by this model"),
    ):
        if names:
            log.warning("train.init_from %s: %d %s: %s", source, len(names), problem, some(sorted(names)))
    with torch.no_grad():
        for name, value in common.items():
            assign(value, saved[name])
    average = ", its moving average" if "ema" in checkpoint else ""
    return f"{len(common)} of {len(weights)} {what} weights from step {checkpoint.step} of {source}{average}"


def _encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(("encoder.", "encoders."))}
