"""The run before a run: what ``train.pretrain`` makes of a configuration."""

from __future__ import annotations

from ..core.levels import HierarchyConfig
from .config import PretrainConfig
from .folder import PRETRAIN, run_dir
from .run_config import RunConfig


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
