"""Learning-rate schedules: pure functions of the step, clamped past their end."""

from __future__ import annotations

import math

from .config import ConstantSchedule, CosineSchedule, OptimConfig, Schedule


def learning_rate(config: OptimConfig, step: int, steps: int, spent: float = 0.0) -> float:
    """The learning rate of a step, before the levels' multipliers.

    Args:
        config: gives the full rate, the warm-up and the schedule.
        step: steps taken before this one, 0 for the first.
        steps: steps of the whole run.
        spent: fraction of the run's time limit that is gone; 0 where there is none. The decay follows the steps or
            the time, whichever is nearer its end; the warm-up follows the steps.
    """
    position = max(float(step), min(spent, 1.0) * steps)
    return config.lr * warmup(step, config.warmup_steps) * decay(config.schedule, position, steps, config.warmup_steps)


def warmup(step: int, warmup_steps: int) -> float:
    """A straight line from ``1 / warmup_steps`` at the first step to 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def decay(schedule: Schedule, position: float, steps: int, warmup_steps: int) -> float:
    """The schedule's factor at a position in steps; 1 until the decay begins, ``final_lr`` once it is over."""
    if isinstance(schedule, ConstantSchedule):
        return 1.0
    if isinstance(schedule, CosineSchedule):
        length = schedule.decay_steps or max(1, steps - warmup_steps)
        progress = _clamp((position - warmup_steps) / length)
        return schedule.final_lr + (1 - schedule.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    length = schedule.decay_steps or max(1, round(steps / 5))
    progress = _clamp((position - (steps - length)) / length)
    return 1 - (1 - schedule.final_lr) * progress


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))
