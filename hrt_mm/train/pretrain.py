"""Self-pretraining: two runs joined by ``train.pretrain``, the first on the samples of the second without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import PRETRAIN, run_dir
from .pretraining import pretraining
from .start import check_unused
from .store import CheckpointStore

if TYPE_CHECKING:
    from .run_config import RunConfig


@dataclass(frozen=True)
class TrainedStage:
    """A run of one or two.

    Args:
        config: of the run.
        init_from: the run folder whose encoder starts it.
    """

    config: RunConfig
    init_from: Path | None


def stages(config: RunConfig, *, resume: bool) -> list[TrainedStage]:
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
        return [TrainedStage(config, source)]
    folder = run_dir(config)
    if not resume:
        check_unused(folder)
    second = TrainedStage(config, folder / PRETRAIN)
    begun = resume and CheckpointStore(folder).steps()
    return [second] if begun else [TrainedStage(pretraining(config, options), source), second]
