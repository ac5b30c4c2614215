"""Sharded training has the losses of one process and of DDP, whatever the number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import ConfigError
from hrt_mm.train.config import TrainConfig
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.loop import fit, train
from hrt_mm.train.nonfinite import NonFiniteError
from hrt_mm.train.run import open_run
from hrt_mm.train.sharding import choose_sharding
from hrt_mm.train.signals import StopSignals
from hrt_mm.train.store import CheckpointStore
from tests.processes import on_ranks
from tests.train.toy_hierarchies import LEARNED, rows_config
from tests.train.toy_processes import logged

PATHS: dict[str, Any] = {"top_down": True, "cross_scale": {"up": True, "down": True}}
SOFT = {"levels": {"rows": "a", "ids": "a"}, "align": "soft"}
CASES: dict[str, dict[str, Any]] = {
    "everything": {
        "accumulate": 2,
        "ema": 0.9,
        "model": PATHS | {"groups": LEARNED, "activation_checkpointing": True, "alignment": 0.1},
        "optim": {"layer_decay": 0.8, "clip_grad_norm": 0.05, "type": "nadamw"},
    },
    "tokens": {"accumulate_tokens": 60, "ema": 0.9, "optim": {"type": "sgd", "clip_grad_norm": None}},
    "chunks": {"contrastive": {"chunk": 2}},
    "sigmoid": {"contrastive": {"loss": {"type": "sigmoid"}, "also": [SOFT]}, "accumulate": 2},
    "bf16": {"precision": "bf16"},
}
"""Losses of learned groups are means over batches, so that case is compared with DDP alone."""
HSDP = {"parallel": "hsdp", "shard_size": 2}


def train_here(
    ranks: ProcessGroup, folder: Path, keywords: dict[str, Any], *, resume: bool = False
) -> dict[str, float]:
    config = rows_config(folder, **keywords)
    with StopSignals() as stop, open_run(config, ranks, stop, init_from=None, resume=resume) as run:
        fit(run)
        return run.finish()


def _train_all(ranks: ProcessGroup, folder: Path, runs: list[tuple[str, dict[str, Any]]]) -> None:
    for name, form in runs:
        train_here(ranks, folder / f"{name}-{form['parallel']}", {"steps": 3, **CASES[name], **form})


def _train_all_and_diverge(ranks: ProcessGroup, folder: Path, runs: list[tuple[str, dict[str, Any]]]) -> str:
    _train_all(ranks, folder, runs)
    # The first step makes the weights too large.
    diverging: dict[str, Any] = {"parallel": "fsdp2", "optim": {"type": "sgd", "lr": 1e38, "clip_grad_norm": None}}
    with pytest.raises(NonFiniteError) as error:
        train_here(ranks, folder / "diverging", diverging)
    return str(error.value)


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    fsdp2 = [(name, {"parallel": "fsdp2"}) for name in CASES]
    errors = on_ranks(2, _train_all_and_diverge, tmp_path, [*fsdp2, ("everything", {"parallel": "ddp"})])
    assert len(set(errors)) == 1
    assert "its gradient is not; that began in head.bias" in errors[0]
    for name, keywords in CASES.items():
        if name != "everything":
            train(rows_config(tmp_path / f"{name}-ddp", **{"steps": 3, **keywords}))
        # Shards of blocks are gathered in bf16, which also rounds the gains of queries.
        _check_same(tmp_path, f"{name}-fsdp2", f"{name}-ddp", rel=0.01 if name == "bf16" else 1e-4)


def test_replicas_of_shards_train_as_replicas(tmp_path: Path) -> None:
    on_ranks(4, _train_all, tmp_path, [("everything", HSDP), ("everything", {"parallel": "ddp"}), ("chunks", HSDP)])
    train(rows_config(tmp_path / "chunks-ddp", **{"steps": 3, **CASES["chunks"]}))
    _check_same(tmp_path, "everything-hsdp", "everything-ddp", rel=1e-4)
    _check_same(tmp_path, "chunks-hsdp", "chunks-ddp", rel=1e-4)


def _check_same(folder: Path, ours: str, theirs: str, *, rel: float) -> None:
    for line, expected in zip(logged(folder / ours, timed=False), logged(folder / theirs, timed=False), strict=True):
        # How evenly tokens are shared is of several ranks alone.
        line.pop("train/token_spread", None)
        expected.pop("train/token_spread", None)
        assert line == pytest.approx(expected, rel=rel, abs=1e-5), ours
    saved, expected_weights = (CheckpointStore(folder / name).read(3).tensors("model") for name in (ours, theirs))
    assert saved.keys() == expected_weights.keys()
    for name, value in saved.items():
        if rel < 1e-3:
            torch.testing.assert_close(value, expected_weights[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("options", "optimizer", "problem"),
    [
        ({"parallel": "fsdp2"}, "mars", "optim.type mars does not work on shards"),
        ({"parallel": "hsdp", "shard_size": 3}, "adamw", "train.shard_size is 3, which must be 2 or more and divide"),
        ({"parallel": "hsdp"}, "adamw", "the number of ranks of a machine, is 1"),
    ],
)
def test_what_cannot_be_sharded_is_refused(options: dict[str, Any], optimizer: str, problem: str) -> None:
    train_options = TrainConfig(steps=1, batch_size=4, **options)
    with pytest.raises(ConfigError, match=problem):
        choose_sharding(train_options, optimizer, torch.float32, torch.device("cpu"), 4, 1)
    # One process has nothing to shard.
    assert choose_sharding(train_options, optimizer, torch.float32, torch.device("cpu"), 1, 1) is None


def test_the_size_of_shards_without_replicas_is_refused() -> None:
    with pytest.raises(ValueError, match="shard_size has no effect with parallel: fsdp2"):
        TrainConfig(steps=1, batch_size=4, parallel="fsdp2", shard_size=2)
