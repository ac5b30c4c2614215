"""Self-pretraining: two runs joined by ``train.pretrain``, the first on the samples of the second without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..levels import HierarchyConfig
from .config import PretrainConfig
from .start import PRETRAIN, check_unused, run_dir
from .store import CheckpointStore

if TYPE_CHECKING:
    from ..config import RunConfig


@dataclass(frozen=True)
class Stage:
    """A run of one or two.

    Args:
        config: of the run.
        init_from: the run folder whose encoder starts it.
    """

    config: RunConfig
    init_from: Path | None


def stages(config: RunConfig, *, resume: bool) -> list[Stage]:
    """The runs that are still to be made, in order: one, or two where pre-training comes first.

    A pre-training run that is over is gone through again, to see that it is the one asked for: that takes no step.

    Args:
        config: of the run.
        resume: go on with what the run folder holds.

    Raises:
        ConfigError: the run folder holds something already, and it is not to go on.
    """
    options, source = config.train.pretrain, config.train.init_from
    if options is None:
        return [Stage(config, source)]
    folder = run_dir(config)
    if not resume:
        check_unused(folder)
    second = Stage(config, folder / PRETRAIN)
    begun = resume and CheckpointStore(folder).steps()
    return [second] if begun else [Stage(pretraining(config, options), source), second]


def pretraining(config: RunConfig, options: PretrainConfig) -> RunConfig:
    """The configuration of the first run.

    Args:
        config: of the second.
        options: what differs.
    """
    changed: dict[str, object] = {"pretrain": None, "steps": options.steps, "time_limit": options.time_limit}
    if options.batch_size is not None or options.batch_tokens is not None:
        changed |= {"batch_size": options.batch_size, "batch_tokens": options.batch_tokens}
    return config.model_copy(
        update={
            "model": downward(config.single.model),
            "task": options.task,
            "optim": options.optim or config.optim,
            "train": config.train.model_copy(update={"test": False, **changed}),
            "run": config.run.model_copy(update={"dir": run_dir(config) / PRETRAIN}),
        }
    )


def downward(model: HierarchyConfig) -> HierarchyConfig:
    """A hierarchy of which all reaches the finest level."""
    paths = model.cross_scale.model_copy(update={"up": False})
    top_down = model.top_down or (len(model.levels) > 1 and not paths.down)
    return model.model_copy(update={"cross_scale": paths, "top_down": top_down})
