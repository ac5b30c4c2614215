"""State that changes once a training step, however its samples are split into batches, chunks and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class PerStep(nn.Module):
    """A module with such state.

    Inside :func:`training_step` it changes once for all batches together. Outside, each batch is a step of its own.
    """

    in_training_step = False

    def on_step_begin(self) -> None:
        """Before the first batch of a step."""

    def on_step_end(self) -> None:
        """After the last one. All ranks come here together."""

    @property
    def is_new_batch(self) -> bool:
        """Whether a batch in training is counted: not where activations are made once more in the backward pass."""
        return self.training and torch._C._current_graph_task_id() == -1


@contextmanager
def training_step(module: nn.Module) -> Iterator[None]:
    """What runs inside is one training step of ``module``; within another one it is a part of that."""
    parts = [
        part for part in module.modules() if isinstance(part, PerStep) and part.training and not part.in_training_step
    ]
    try:
        for part in parts:
            part.in_training_step = True
            part.on_step_begin()
        yield
        for part in parts:
            part.on_step_end()
    finally:
        for part in parts:
            part.in_training_step = False
