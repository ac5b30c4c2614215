"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import math

from .config import ConstantSchedule, CosineSchedule, OptimConfig, Schedule


def learning_rate(config: OptimConfig, step: int, steps: int, spent: float = 0.0) -> float:
    """The learning rate of a step, before the levels' multipliers.

    Args:
        config: peak learning rate, warm-up and schedule.
        step: index of the step, from 0.
        steps: steps of the whole run.
        spent: fraction of the time limit that is spent; 0 without a limit. The decay follows the steps or the time,
            whichever is closer to its end. The warm-up follows the steps.
    """
    # A time limit may end the run early or not at all; either way the decay ends with it.
    position = max(float(step), min(spent, 1.0) * steps)
    return config.lr * warmup(step, config.warmup_steps) * decay(config.schedule, position, steps, config.warmup_steps)


def warmup(step: int, warmup_steps: int) -> float:
    """Linear from ``1 / warmup_steps`` at the first step to 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def decay(schedule: Schedule, position: float, steps: int, warmup_steps: int) -> float:
    """The schedule's multiplier at a (fractional) step: 1 before the decay, ``final_lr`` after it."""
    if isinstance(schedule, ConstantSchedule):
        return 1.0
    if isinstance(schedule, CosineSchedule):
        length = schedule.decay_steps or max(1, steps - warmup_steps)
        progress = _clamp((position - warmup_steps) / length)
        return schedule.final_lr + (1 - schedule.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    length = schedule.decay_steps or max(1, round(steps / 5))
    progress = _clamp((position - (steps - length)) / length)
    return 1 - (1 - schedule.final_lr) * progress


def schedule_warnings(config: OptimConfig, steps: int) -> list[str]:
    """Warnings about a schedule that does not fit the length of the run.

    Args:
        config: of the optimizer.
        steps: of the whole run.
    """
    warnings, warmup_steps = [], config.warmup_steps
    if warmup_steps >= steps > 1:
        warnings.append(
            f"optim.warmup_steps {warmup_steps} is not less than train.steps {steps}: lr {config.lr:g} is "
            f"{'reached at the last step' if warmup_steps == steps else 'never reached'}; set fewer, or more steps"
        )
    elif not isinstance(config.schedule, ConstantSchedule) and config.schedule.decay_steps is not None:
        available, length = steps - warmup_steps, config.schedule.decay_steps
        if length > available:
            cosine = isinstance(config.schedule, CosineSchedule)
            effect = "final_lr is never reached" if cosine else "the decay begins within the warm-up"
            warnings.append(
                f"optim.schedule.decay_steps {length} is more than the {available} steps after the warm-up: {effect}; "
                "set fewer, or leave it out"
            )
    return warnings


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))
