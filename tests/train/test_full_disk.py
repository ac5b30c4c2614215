from __future__ import annotations

from pathlib import Path
from typing import Any

from hrt_mm.train.loop import train
from hrt_mm.train.store import CheckpointStore
from tests.train.toy_processes import train_on_full_disk
from tests.train.toy_training import toy_config

LIMIT = 1_000_000
WIDE = 30_000
"""Width at which the optimizer's file grows past the limit, and the log does not."""


def test_the_last_good_checkpoint_outlives_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    common: dict[str, Any] = {"dim": WIDE, "eval_every": None, "test": False, "save_every": 2, "keep_last": 2}
    train(toy_config(folder, steps=2, **common))
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    assert max(map(len, before.values())) > LIMIT
    error, warnings = train_on_full_disk(folder, common | {"steps": 6}, LIMIT)
    assert "the last checkpoint, of step 6, could not be written ([Errno 27] File too large)" in error
    assert f"the last good checkpoint is {folder}/checkpoints/step-00000002" in error
    assert len(warnings) == 1
    assert "checkpoint of step 4 could not be written ([Errno 27] File too large), failure 1 of this run" in warnings[0]
    assert {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()} == before
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    # With room again the run goes on from there.
    train(toy_config(folder, steps=6, **common), resume=True)
    assert CheckpointStore(folder).steps() == [4, 6]
