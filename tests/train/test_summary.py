from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.train.summary import read_summary, write_summary
from tests.damage import try_all

VALUES: dict[str, Any] = {
    "steps": 3, "seconds": 1.5, "device": "cpu", "metrics": {"test/loss": 0.5, "val/x": math.nan}, "more": {"a": [1]},
}  # fmt: skip


def test_a_summary_is_read_back(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", VALUES)
    assert read_summary(tmp_path / "summary.json") == VALUES | {"metrics": {"test/loss": 0.5, "val/x": None}}


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, VALUES)
    try_all(path, lambda: read_summary(path), bits=200, same=False)
    for text in ('{"steps": 1}', '{"steps": 1, "seconds": 1, "device": "cpu", "metrics": {"a": "b"}}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"summary.json is damaged: it is not the summary of a run; remove it, or"):
            read_summary(path)
    with pytest.raises(UserError, match=r"nowhere cannot be read: No such file or directory; the run has not finished"):
        read_summary(tmp_path / "nowhere")
