"""The error for a non-finite loss or gradient, raised before the weights are updated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UserError
from ..tasks.base import Task
from .weights import gathered


class NonFiniteError(UserError):
    """The loss or the gradient is NaN or infinite."""


def nonfinite_error(
    task: Task,
    sources: Sequence[tuple[str, Sequence[str]]],
    level_names: Sequence[str],
    *,
    step: int,
    loss: float,
    checkpoint: Path | None,
) -> NonFiniteError:
    """The error that names the step, the first module or level with non-finite values, and the last checkpoint.

    Args:
        task: with the step's gradients.
        sources: for each batch of this rank with a non-finite loss, the first non-finite module and the sample names.
        level_names: of the model, fine to coarse.
        step: that failed, counted from 1.
        loss: of the step.
        checkpoint: the newest, if any.
    """
    if sources:
        where, names = sources[0]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        what = f"the loss is not finite; that began in {where} (samples: {', '.join(names[:5])}{more})"
    elif math.isfinite(loss):
        what = f"the loss is finite, its gradient is not; that began in {gradient_source(task, level_names)}"
    else:
        what = "the loss of another rank is not finite"
    good = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved yet"
    return NonFiniteError(
        f"step {step}: {what}. The weights were not changed; {good}. Mend the samples if they are at fault; otherwise "
        "lower optim.lr, lengthen optim.warmup_steps, or set train.precision=fp32"
    )


def gradient_source(task: Task, level_names: Sequence[str]) -> str:
    """The last parameter, and its level, with a non-finite gradient: the first one that the backward pass reached."""
    levels = task.parameter_levels()
    for name, parameter in reversed(list(task.named_parameters())):
        # Shards are gathered: all ranks look, and find the same one.
        if parameter.grad is not None and not gathered(parameter.grad).isfinite().all():
            level = levels[name]
            return f"level {level_names[level]!r} ({name})" if level is not None else name
    return "no parameter alone: their joint length overflows"
