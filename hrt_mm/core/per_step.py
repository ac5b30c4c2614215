"""Module state that changes once per training step, however a step is split into batches, chunks and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class PerStep(nn.Module):
    """A module with state that is updated once per training step.

    Within :func:`training_step` the hooks run once for all batches together. Without it, each batch is a step.
    """

    in_training_step = False

    def on_step_begin(self) -> None:
        """Called before the first batch of a step."""

    def on_step_end(self) -> None:
        """Called after the last batch of a step, by all processes together."""

    @property
    def is_new_batch(self) -> bool:
        """Whether a forward pass in training is a new batch, not the recomputation of a checkpointed one."""
        # Checkpointed activations are recomputed in the backward pass, which runs as a graph task.
        return self.training and torch._C._current_graph_task_id() == -1


@contextmanager
def training_step(module: nn.Module) -> Iterator[None]:
    """Makes everything that runs inside one training step of ``module``. An inner context joins the outer one."""
    stateful = [child for child in module.modules() if isinstance(child, PerStep) and child.training]
    # Modules that an outer context has begun are left to it.
    stateful = [child for child in stateful if not child.in_training_step]
    try:
        for child in stateful:
            child.in_training_step = True
            child.on_step_begin()
        yield
        for child in stateful:
            child.on_step_end()
    finally:
        for child in stateful:
            child.in_training_step = False
