"""A run with another optimizer, stopped and resumed, is the uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrt_mm.train.identity import check_same_run
from hrt_mm.train.loop import train
from hrt_mm.train.store import CheckpointStore
from tests.train.test_monitor import KillAt, Killed
from tests.train.toy_training import toy_config


@pytest.mark.parametrize("kind", ["muon", "mars", "sgd"])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    if kind == "mars":
        pytest.importorskip("timm")
    options: dict[str, Any] = {"optim": {"type": kind}, "accumulate_tokens": 60, "save_every": 2}
    train(toy_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(toy_config(tmp_path / "killed", **options), callbacks=[KillAt(3)])
    train(toy_config(tmp_path / "killed", **options), resume=True)
    for part in ("model", "optimizer"):
        file = f"checkpoints/step-00000006/{part}.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_from_before_there_were_several_optimizers_goes_on(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", steps=2, save_every=1)
    train(config)
    checkpoint = CheckpointStore(tmp_path / "run").read("latest")
    del checkpoint.state["config"]["optim"]["type"]
    check_same_run(config, checkpoint)
