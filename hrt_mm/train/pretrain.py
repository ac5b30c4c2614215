"""Starting from pre-trained weights.

``train.pretrain`` trains the encoder without labels in a run that comes first; ``train.init_from`` takes the encoder
of another run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.levels import HierarchyConfig
from ..data.tokenizer import Tokenizer
from ..tasks.base import Task
from .checkpoint import CheckpointError
from .config import PretrainConfig
from .folder import PRETRAIN, check_unused, run_dir
from .identity import check_same_vocabularies
from .store import CheckpointStore, open_store
from .weights import mismatches, named_weights, refuse

if TYPE_CHECKING:
    from .run_config import RunConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingStage:
    """One of the runs that a configuration describes.

    Args:
        config: of the run.
        init_from: run folder whose encoder weights initialize it.
    """

    config: RunConfig
    init_from: Path | None


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


def load_encoder(task: Task, source: Path, tokenizers: Mapping[str, Tokenizer]) -> str:
    """Initializes a task's encoder from the best weights of another run, or their moving average if it was kept.

    Weights that the source lacks, such as those of a top-down path that only this model has, keep their random
    initialization, with a warning.

    Args:
        task: whose encoder to initialize.
        source: the run folder.
        tokenizers: by tower, of the task.

    Returns:
        What was loaded, on one line.

    Raises:
        UserError: the source has no checkpoint, no weights of this encoder, other shapes, or another vocabulary.
    """
    checkpoint = open_store(source).read("best")
    check_same_vocabularies(checkpoint, tokenizers, "train with the same file, or without train.init_from")
    pretrained = _encoder(checkpoint.tensors("ema" if "ema" in checkpoint else "model"))
    encoder = _encoder(named_weights(task))
    common = {name: value for name, value in encoder.items() if name in pretrained}
    if not common:
        raise CheckpointError(
            f"train.init_from {source}: none of its {len(pretrained)} encoder weights are among the {len(encoder)} of "
            "this model"
        )
    refuse(mismatches(common, {name: pretrained[name] for name in common}), f"the encoder of {source}")
    for names, what in (
        (encoder.keys() - common.keys(), "weights are missing there and keep their random initialization"),
        (pretrained.keys() - common.keys(), "of its weights are not used by this model"),
    ):
        if names:
            log.warning("train.init_from %s: %d %s: %s", source, len(names), what, _first_names(names))
    with torch.no_grad():
        for name, value in common.items():
            value.copy_(pretrained[name])
    average = ", its moving average" if "ema" in checkpoint else ""
    return f"{len(common)} of {len(encoder)} encoder weights from step {checkpoint.step} of {source}{average}"


def _encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(("encoder.", "encoders."))}


def _first_names(names: Set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
