from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.train.config import OptimConfig, TrainConfig, WSDSchedule


@pytest.mark.parametrize(("batch", "given"), [({}, "neither"), ({"batch_size": 1, "batch_tokens": 9}, "both")])
def test_exactly_one_way_to_make_batches(batch: dict[str, int], given: str) -> None:
    with pytest.raises(ValidationError, match=f"give one of batch_size and batch_tokens; {given} is given"):
        TrainConfig.model_validate({"steps": 1} | batch)


def test_the_cpu_clock_needs_all_work_in_one_process() -> None:
    with pytest.raises(ValidationError, match="clock: cpu does not see what loader workers compute; set workers: 0"):
        TrainConfig.model_validate({"steps": 1, "batch_size": 1, "clock": "cpu", "workers": 1})


def test_a_schedule_is_chosen_by_type() -> None:
    config = OptimConfig.model_validate({"schedule": {"type": "wsd", "decay_steps": 10}})
    assert config.schedule == WSDSchedule(type="wsd", decay_steps=10, final_lr=0.0)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"ema": 1.0}, {"max_bad_share": 1.0}, {"precision": "fp16"}, {"time_limit": 0}, {"keep_last": 0}],
    ids=str,
)
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"steps": 1, "batch_size": 1} | wrong)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("10m", 10), ("90s", 1.5), ("1.5h", 90), ("1h30m", 90), ("1h1m30s", 61.5), (10, 10), (0.5, 0.5)],
)
def test_time_limits_are_minutes_or_have_a_unit(text: object, minutes: float) -> None:
    assert TrainConfig(steps=1, batch_size=1, time_limit=text).time_limit == pytest.approx(minutes)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "10", "10 m", "m", "30m1h", "1d", "-5m", "0s", 0, -1, "nan", "1e3s"])
def test_other_time_limits_are_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(steps=1, batch_size=1, time_limit=text)  # type: ignore[arg-type]
