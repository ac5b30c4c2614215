from __future__ import annotations

from typing import Any

import pytest

from hrt_mm.train.config import CosineSchedule, OptimConfig, WSDSchedule
from hrt_mm.train.schedule import learning_rate, schedule_warnings


def rates(
    schedule: dict[str, Any], steps: list[int], total: int = 100, warmup: int = 10, spent: float = 0
) -> list[float]:
    config = OptimConfig.model_validate({"lr": 2.0, "warmup_steps": warmup, "schedule": schedule})
    return [learning_rate(config, step, total, spent) for step in steps]


def test_warmup_is_a_line_that_ends_at_the_full_rate() -> None:
    assert rates({"type": "constant"}, [0, 4, 9, 10, 99, 500]) == pytest.approx([0.2, 1.0, 2, 2, 2, 2])
    assert rates({"type": "constant"}, [0], warmup=0) == [2.0]


def test_cosine_falls_from_the_warmup_to_the_end_and_stays_there() -> None:
    result = rates({"type": "cosine", "final_lr": 0.1}, [9, 10, 55, 100, 1000])
    assert result == pytest.approx([2.0, 2.0, 2 * 0.55, 0.2, 0.2])


def test_cosine_over_its_own_number_of_steps() -> None:
    result = rates({"type": "cosine", "final_lr": 0, "decay_steps": 20}, [10, 20, 30, 31])
    assert result == pytest.approx([2.0, 1.0, 0.0, 0.0])


def test_wsd_is_stable_and_then_a_line() -> None:
    assert rates({"type": "wsd"}, [10, 80, 90, 100, 200]) == pytest.approx([2, 2, 1, 0, 0])
    result = rates({"type": "wsd", "decay_steps": 50, "final_lr": 0.5}, [50, 75, 100])
    assert result == pytest.approx([2, 1.5, 1])


def test_a_time_limit_ends_the_decay_and_leaves_the_warmup() -> None:
    wsd = {"type": "wsd"}
    assert rates(wsd, [20], spent=0.9) == pytest.approx([1.0])
    assert rates(wsd, [95], spent=0.1) == pytest.approx([0.5])
    assert rates(wsd, [4, 20], spent=7.0) == pytest.approx([0.0, 0.0])
    assert rates({"type": "constant"}, [4], spent=0.9) == pytest.approx([1.0])


def optim(**settings: object) -> OptimConfig:
    return OptimConfig(**{"warmup_steps": 10, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (optim(), 5, "optim.warmup_steps 10 is not less than train.steps 5: lr 0.001 is never reached"),
        (optim(), 10, "lr 0.001 is reached at the last step"),
        (
            optim(schedule=CosineSchedule(decay_steps=20)),
            25,
            "decay_steps 20 is more than the 15 steps after the warm-up",
        ),
        (optim(schedule=WSDSchedule(type="wsd", decay_steps=20)), 25, "the decay begins within the warm-up"),
    ],
)
def test_schedules_that_do_not_fit_the_run_are_warned_of(config: OptimConfig, steps: int, message: str) -> None:
    (warning,) = schedule_warnings(config, steps)
    assert message in warning


@pytest.mark.parametrize(("config", "steps"), [(optim(), 11), (optim(schedule=CosineSchedule(decay_steps=5)), 15)])
def test_schedules_that_fit_are_not(config: OptimConfig, steps: int) -> None:
    assert not schedule_warnings(config, steps)
