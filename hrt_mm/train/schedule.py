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


def schedule_warnings(config: OptimConfig, steps: int) -> list[str]:
    """What is odd about a schedule beside the length of the run.

    Args:
        config: of the optimizer.
        steps: of the whole run.
    """
    found, warmup_steps = [], config.warmup_steps
    if warmup_steps >= steps > 1:
        found.append(
            f"optim.warmup_steps {warmup_steps} is not less than train.steps {steps}: lr {config.lr:g} is "
            f"{'reached at the last step' if warmup_steps == steps else 'never reached'}; set fewer, or more steps"
        )
    elif not isinstance(config.schedule, ConstantSchedule) and config.schedule.decay_steps is not None:
        room, length = steps - warmup_steps, config.schedule.decay_steps
        if length > room:
            cosine = isinstance(config.schedule, CosineSchedule)
            effect = "final_lr is never reached" if cosine else "the decay begins within the warm-up"
            found.append(
                f"optim.schedule.decay_steps {length} is more than the {room} steps after the warm-up: {effect}; "
                "set fewer, or leave it out"
            )
    return found


def _clamp(value: float) -> float:
    return min(1.0, max(0.0, value))
