from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.inference.trained import evaluate_run, load_task
from hrt_mm.tasks.base import TaskOutput
from hrt_mm.tasks.batch import Batch
from hrt_mm.train.build import build_data, build_task
from hrt_mm.train.checkpoint import CheckpointError
from hrt_mm.train.distributed import ProcessGroup
from hrt_mm.train.evaluate import EvaluationLoader, evaluate
from hrt_mm.train.loop import train
from hrt_mm.train.meters import Meters, added, means
from tests.train.toy_training import ToyTask, toy_config

RANKS = ProcessGroup(torch.device("cpu"))


def metrics(limit: int | None = None, **keywords: Any) -> dict[str, float]:
    torch.manual_seed(0)
    config = toy_config(Path("run"), **keywords)
    data = build_data(config, ["train", "val"])
    task = build_task(config, data.tokenizers, data.classes)
    loader = EvaluationLoader("val", data.maker(config, "val"), config.train, RANKS, limit)
    result = evaluate(task, loader, contextlib.nullcontext)
    assert result is not None
    assert task.training
    return result


def test_metrics_are_exact_however_the_batches_are_cut() -> None:
    data = {"held_out": 13}
    whole = metrics(batch_size=13, data=data)
    assert whole.keys() == {"val/loss", "val/cross_entropy", "val/accuracy"}
    for keywords in ({"batch_size": 5}, {"batch_size": 1, "workers": 2}, {"batch_tokens": 9}):
        assert metrics(data=data, **keywords) == pytest.approx(whole, rel=1e-6)


def test_a_limit_takes_the_same_part_every_time() -> None:
    part = metrics(limit=2, data={"held_out": 40})
    assert part == metrics(limit=2, data={"held_out": 40})
    assert part != metrics(data={"held_out": 40})


def test_generators_and_mode_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    config = toy_config(Path("run"))
    data = build_data(config, ["train", "val"])
    task = build_task(config, data.tokenizers, data.classes).eval()
    torch.manual_seed(5)
    evaluate(task, EvaluationLoader("val", data.maker(config, "val"), config.train, RANKS), contextlib.nullcontext)
    assert torch.equal(torch.rand(3), expected)
    assert not task.training


def test_classes_that_a_mean_over_classes_lacks_are_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = ToyTask.forward

    def counting(self: ToyTask, batch: Batch) -> TaskOutput:
        return replace(forward(self, batch), class_counts={"macro_f1": torch.tensor([[1, 0], [1, 2], [1, 0]])})

    monkeypatch.setattr(ToyTask, "forward", counting)
    config = toy_config(Path("run"))
    data = build_data(config, ["train", "val"])
    task = build_task(config, data.tokenizers, data.classes)
    loader = EvaluationLoader("val", data.maker(config, "val"), config.train, RANKS)
    for _ in range(2):
        assert "val/macro_f1" in (evaluate(task, loader, contextlib.nullcontext) or {})
    assert caplog.messages == ["val/macro_f1 is the mean over 1 of 2 classes: the split has no sample of high"]


def test_it_stops_between_batches() -> None:
    config = toy_config(Path("run"))
    data = build_data(config, ["train", "val"])
    task = build_task(config, data.tokenizers, data.classes)
    loader = EvaluationLoader("val", data.maker(config, "val"), config.train, RANKS)
    assert evaluate(task, loader, contextlib.nullcontext, stopped=lambda: True) is None


def test_sums_of_ranks_add_up_and_what_was_not_counted_is_left_out() -> None:
    sums = added([{"a": (1.0, 2.0), "b": (0.0, 0.0)}, {}, {"a": (2.0, 4.0)}])
    assert means(sums, "val") == {"val/a": 0.5}
    meters = Meters()
    meters.restore({"a": (0.1, 3.0)})
    assert meters.sums() == {"a": (0.1, 3.0)}
    assert Meters().sums() == {}


def test_a_run_is_opened_again(tmp_path: Path) -> None:
    config = toy_config(tmp_path, ema=0.5, save_every=2)
    train(config)
    best, latest = load_task(tmp_path, config=config), load_task(tmp_path, "latest", config=config)
    assert isinstance(best.task, ToyTask)
    assert not best.task.training
    assert best.classes == ("low", "high")
    assert best.checkpoint.step in (4, 6)
    assert latest.checkpoint.step == 6
    assert isinstance(latest.task, ToyTask)
    assert torch.equal(latest.task.head.weight, latest.checkpoint.tensors("ema")["head.weight"])
    assert load_task(tmp_path, 4, config=config).checkpoint.step == 4
    assert evaluate_run(tmp_path, "val", which="latest", config=config).keys() >= {"val/accuracy"}


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a run folder: it has no config.yaml"):
        load_task(tmp_path)
    config = toy_config(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_task(tmp_path, config=config)
    train(config)
    with pytest.raises(ConfigError, match="the val split has a class that the train split has not: 'odd'"):
        evaluate_run(tmp_path, "val", config=toy_config(tmp_path, data={"odd_class": ("val",)}))


def test_too_many_bad_samples_stop_an_evaluation(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    train(config)
    broken = toy_config(tmp_path, data={"unreadable": tuple(range(40))})
    with pytest.raises(UserError, match=r"samples of train read so far cannot be used(?s:.)*train/0: it is cut short"):
        evaluate_run(tmp_path, "train", config=broken)
