from __future__ import annotations

import json
import re
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.train.build import build_data
from hrt_mm.train.config import TrainConfig
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.identity import check_same_config, check_same_samples
from hrt_mm.train.loop import train
from hrt_mm.train.sharding import choose_sharding
from hrt_mm.train.store import CheckpointStore
from tests.processes import on_two_ranks
from tests.train.toy_processes import finished, logged, start_ranks, wait_for_step
from tests.train.toy_training import toy_config

RUN: dict[str, Any] = {
    "steps": 9, "batch_size": 7, "accumulate": 2, "ema": 0.9, "log_every": 3, "eval_every": 3, "save_every": 4,
    "data": {"held_out": 11, "unreadable": (3,), "delay": 0.002}, "max_bad_share": 0.1, "task": {"dropout": 0.0},
    "optim": {"schedule": {"type": "constant"}},
}  # fmt: skip
"""Uneven shares on purpose: 7 samples, some of them bad, on 2 ranks, and 11 to evaluate on."""


def test_two_ranks_train_as_one_and_stop_and_go_on_as_one(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "one", **RUN))
    ranks = start_ranks(tmp_path / "two", RUN, 2, TOY_GATE=f"12:{tmp_path / 'gate'}")
    wait_for_step(tmp_path / "two", 3)
    ranks[1].terminate()
    (tmp_path / "gate").touch()
    assert [finished(process) for process in ranks] == [143, 143]
    assert not (tmp_path / "two" / "summary.json").exists()
    assert [finished(process) for process in start_ranks(tmp_path / "two", RUN, 2, resume=True)] == [0, 0]
    one, two = (CheckpointStore(tmp_path / name).read(9) for name in ("one", "two"))
    for part in ("model", "ema", "optimizer"):
        theirs = two.tensors(part)
        for name, value in one.tensors(part).items():
            torch.testing.assert_close(theirs[name], value, rtol=2e-4, atol=2e-6, msg=name)
    ours = {line["step"]: line for line in logged(tmp_path / "one", timed=False) if "val/loss" in line}
    for line in logged(tmp_path / "two", timed=False):
        if "val/loss" in line and line["step"] in ours:
            assert line == pytest.approx(ours[line["step"]], rel=1e-4)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    for key in ("samples", "tokens", "counts", "bad_samples"):
        assert summaries[0][key] == summaries[1][key], key
    assert summaries[1]["ranks"] == 2
    assert summaries[1]["metrics"] == pytest.approx(summaries[0]["metrics"], rel=1e-4)


SHORT: dict[str, Any] = {
    "steps": 6, "batch_size": 4, "log_every": 1, "save_every": 1, "eval_every": None, "test": False,
}  # fmt: skip


def test_ranks_that_torchrun_starts_again_continue(tmp_path: Path) -> None:
    """The store is that of torchrun, so it still has what the ranks that were killed wrote there."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]

    def ranks_of(restart: int, gate: str = "") -> list[ForkServerProcess]:
        return start_ranks(
            tmp_path / "run", SHORT, 2, TOY_GATE=gate, MASTER_PORT=str(store.port),
            TOY_ERRORS=str(tmp_path / f"error-{restart}"), TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT=str(restart),
        )  # fmt: skip

    first = ranks_of(0, gate=f"4:{tmp_path / 'gate'}")
    wait_for_step(tmp_path / "run", 2)
    first[1].kill()
    (tmp_path / "gate").touch()
    assert [finished(process) for process in first] == [2, -signal.SIGKILL]
    error = (tmp_path / "error-0-0").read_text()
    assert "rank 1 (host " in error
    assert "ended without a message: killed, out of memory, or its connection was lost; resume" in error
    assert re.search(r"\. rank 0 \(host \S+, process \d+\) waited in hrt_mm\.train\.\S+, step [3-5]$", error)
    assert [finished(process) for process in ranks_of(1)] == [0, 0]
    assert [line["step"] for line in logged(tmp_path / "run") if "train/loss" in line] == [1, 2, 3, 4, 5, 6]


def test_what_ends_one_rank_is_named_by_the_other(tmp_path: Path) -> None:
    locked, full = tmp_path / "locked", tmp_path / "full"
    locked.mkdir()
    with exclusive_lock(locked):
        # Several pairs at once, since each is slow to start.
        pairs = {
            "locked": start_ranks(locked, SHORT, 2, TOY_ERRORS=str(tmp_path / "locked")),
            "full": start_ranks(
                full, SHORT | {"dim": 30_000}, 2, TOY_ERRORS=str(tmp_path / "full"), TOY_LIMIT="1000000"
            ),
        }
        for ranks in pairs.values():
            assert [finished(process) for process in ranks] == [2, 2]
    for name, cause in (("locked", "another process"), ("full", "the last checkpoint, of step 6, could not be wr")):
        first, second = ((tmp_path / f"{name}-{rank}").read_text() for rank in range(2))
        assert cause in first
        assert cause in second
        if name == "locked":
            # A lock is seen by the first rank alone; a checkpoint that cannot be written fails on all of them.
            assert second.startswith("rank 0 (host ") and f"failed: {first}" in second


def test_ranks_that_train_something_else(tmp_path: Path) -> None:
    one, other = on_two_ranks(_compare, tmp_path)
    assert one == other
    config, data, same = one
    assert config.startswith("ranks have different configurations; start all ranks with the same one:\n")
    assert config.endswith("\n  train.seed: rank 0 has 0, rank 1 has 1")
    assert "ranks have different data; give all machines the same files:\n  names of train samples" in data
    assert "number of train samples: rank 0 has 64, rank 1 has 65" in data
    assert same == ""


def _compare(ranks: ProcessGroup, folder: Path) -> list[str]:
    """What a rank is told, where they differ in the seed, in the data, and in what may differ."""
    answers = []
    for keywords in ({"seed": ranks.rank}, {"data": {"samples": 64 + ranks.rank}}, {"num_threads": ranks.rank + 1}):
        config = toy_config(folder / str(ranks.rank), **keywords)
        try:
            if "data" not in keywords:
                check_same_config(config, ranks)
            check_same_samples(build_data(config, ["train"]), ranks)
        except ConfigError as error:
            answers.append(str(error))
        else:
            answers.append("")
    return answers


def test_groups_of_shards_have_the_limit_of_collectives() -> None:
    assert on_two_ranks(_timeouts) == [[420.0, 420.0]] * 2


def _timeouts(ranks: ProcessGroup) -> list[float]:
    """Seconds that collectives of each group of a mesh may take."""
    options = TrainConfig(steps=1, batch_size=2, parallel="hsdp", shard_size=2, collective_timeout=7.0)
    sharding = choose_sharding(options, "adamw", torch.float32, ranks.device, 2, 2)
    assert sharding is not None
    backends = [group._get_backend(ranks.device) for group in sharding.mesh.get_all_groups()]
    return [backend.options._timeout.total_seconds() for backend in backends]


def test_alone_every_call_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ProcessGroup.from_env("cpu") as ranks:
        module = torch.nn.Linear(1, 1)
        assert ranks.is_main
        assert ranks.wrap(module) is module
        assert ranks.sum_counts(3, 4) == [3, 4]
        assert ranks.max(0.5, 2.0) == [0.5, 2.0]
        assert ranks.gather({"a": 1}) == [{"a": 1}]
        assert ranks.all(True)
        assert not ranks.all(False)
        ranks.barrier()
