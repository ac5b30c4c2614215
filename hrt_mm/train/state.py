"""The progress of a run, and packing all of its state into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tasks.base import Task
from .checkpoint import Checkpoint
from .monitor import Patience
from .optim import load_optimizer_state, optimizer_state
from .sampler import Position
from .weights import EMA, load_weights, named_weights


@dataclass
class TrainState:
    """The progress of a run between two steps.

    Args:
        step: optimizer steps taken.
        position: in the training data.
        samples: trained on, over all ranks.
        tokens: level-0 tokens trained on, over all ranks.
        seconds: of training, by the run's clock and over all resumptions.
        evaluated: the step of the last evaluation.
        metrics: of that evaluation.
        failed_saves: checkpoints that could not be written.
        patience: of early stopping.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    failed_saves: int = 0
    patience: Patience = field(default_factory=Patience)

    def plain(self) -> dict[str, Any]:
        """JSON-serializable form for ``state.json``. Metrics are included only if they are of the current step."""
        return asdict(self) | {"metrics": self.metrics if self.evaluated == self.step else {}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> TrainState:
        """Restores the progress from ``state.json``."""
        names = cls.__dataclass_fields__.keys() - {"position", "patience"}
        saved = state["position"]
        position = Position(saved["epoch"], saved["batch"], saved.get("stream"))
        # Checkpoints of earlier versions have no patience.
        early = state.get("patience")
        patience = Patience() if early is None else Patience(early["best"], early["stale"])
        return cls(position=position, patience=patience, **{name: state[name] for name in names})


def pack(task: Task, optimizer: torch.optim.Optimizer, ema: EMA | None) -> dict[str, dict[str, Tensor]]:
    """The tensors of a run, by part of the checkpoint."""
    parts = {"model": named_weights(task), "optimizer": optimizer_state(optimizer, task)}
    return parts if ema is None else parts | {"ema": ema.weights}


def unpack(checkpoint: Checkpoint, task: Task, optimizer: torch.optim.Optimizer, ema: EMA | None) -> None:
    """Loads the tensors of a checkpoint.

    Raises:
        UserError: they are of another model; names the first that differ.
    """
    load_weights(task, checkpoint.saved("model"), f"the model of {checkpoint.folder}")
    load_optimizer_state(optimizer, task, checkpoint.saved("optimizer"), f"the optimizer state of {checkpoint.folder}")
    if ema is not None:
        ema.restore(checkpoint.saved("ema"), f"the moving average of {checkpoint.folder}")
