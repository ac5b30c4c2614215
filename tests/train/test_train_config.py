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
