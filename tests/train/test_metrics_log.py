from __future__ import annotations

import builtins
import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.train.metrics_log import MetricsLog, TensorBoard


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_after_the_checkpoint_are_cut_off_whole_or_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(4):
        log.write({"step": step})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"step": 4, "lo')
    log = MetricsLog(path, keep=2)
    log.write({"step": 9})
    log.close()
    assert read(path) == [{"step": 0}, {"step": 1}, {"step": 9}]
    assert log.lines == 3


def test_a_log_that_is_too_short_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MetricsLog(tmp_path / "metrics.jsonl", keep=3).close()
    assert "has 0 lines, the checkpoint was saved after 3" in caplog.text


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1, "loss": math.nan, "x": math.inf})
    log.close()
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "x": None}]


def test_a_full_disk_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1})
    whole = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) > 5:
            return whole(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.write({"step": 2})
    log.write({"step": 3})
    assert read(path) == [{"step": 1}]
    with pytest.raises(OSError, match="No space left"):
        log.sync()
    assert len(caplog.messages) == 1
    monkeypatch.undo()
    log.write({"step": 4})
    log.sync()
    log.close()
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, 0)
    board.write(3, {"train/loss": 0.5})
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]


def test_without_tensorboard_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    board = TensorBoard(tmp_path / "events", 0)
    for step in range(3):
        board.write(step, {"train/loss": 0.5})
    board.close()
    assert caplog.messages == [
        "tensorboard is not installed, so only metrics.jsonl is written: pip install 'hrt-mm[tensorboard]'"
    ]
