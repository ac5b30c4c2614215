from __future__ import annotations

import pytest

from hrt_mm.train.clock import Clock, Throughput


def test_throughput_excludes_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hrt_mm.train.clock.time.perf_counter", lambda: now[0])
    throughput = Throughput()
    for seconds, evaluation in ((2, 10), (2, 0)):
        now[0] += seconds
        throughput.add(100, 0.5)
        now[0] += evaluation
        throughput.pause()
    assert throughput.rates() == {"tokens_per_second": 50, "data_wait": 0.25}
    assert throughput.rates() == {"tokens_per_second": 0, "data_wait": 0}


@pytest.mark.parametrize(("kind", "counted"), [("wall", 5), ("cpu", 2)])
def test_pauses_count_by_the_wall_clock_alone(monkeypatch: pytest.MonkeyPatch, kind: str, counted: float) -> None:
    now = [0.0]
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"hrt_mm.train.clock.time.{name}", lambda: now[0])
    clock = Clock("cpu" if kind == "cpu" else "wall", time_limit=1.0, seconds=10.0)
    now[0] += 2
    with clock.paused():
        now[0] += 3
    assert clock.seconds() == 10 + counted


def test_the_time_left_ends_with_the_steps_or_the_limit() -> None:
    assert Clock("wall", None).seconds_left(20, step=10, steps=40) == 60
    limited = Clock("wall", time_limit=1.0)
    assert limited.seconds_left(20, step=10, steps=40) == 40
    assert limited.seconds_left(20, step=10, steps=15) == 10
    assert limited.fraction_spent(90) == 1.5
    assert Clock("wall", None).fraction_spent(90) == 0
