from __future__ import annotations

import errno
import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.config import RunConfig
from hrt_mm.core.errors import ConfigError, Stopped, UserError
from hrt_mm.data import atomic_files as files
from hrt_mm.data.dataset import Dataset
from hrt_mm.inference.trained import evaluate_run
from hrt_mm.train import checkpoint as checkpoint_module
from hrt_mm.train.checkpoint import CheckpointError
from hrt_mm.train.evaluate import evaluate
from hrt_mm.train.folder import run_dir
from hrt_mm.train.loop import train
from hrt_mm.train.nonfinite import NonFiniteError
from hrt_mm.train.regions import compile_regions
from hrt_mm.train.store import CheckpointStore
from tests.train.toy_processes import finished, logged, start, wait_for_step
from tests.train.toy_training import ToyData, toy_config


def trained(folder: Path, **keywords: Any) -> dict[str, Any]:
    """Trains a toy; its summary."""
    train(toy_config(folder, **keywords))
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def weights(folder: Path, part: str = "model") -> dict[str, torch.Tensor]:
    return CheckpointStore(folder).read("latest").tensors(part)


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in ours.items():
        if name != "calls":
            torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_run_leaves_all_that_it_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    summary = trained(folder, steps=30, eval_every=5, save_every=10, log_every=4, seed=3, tensorboard=True)
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "tensorboard",
    }  # fmt: skip
    assert summary["metrics"]["test/accuracy"] >= 0.9
    assert summary["metrics"].keys() >= {"val/accuracy", "val/loss", "test/loss", "test/cross_entropy"}
    assert summary["counts"] == {"train": 64, "val": 10, "test": 10}
    assert summary.keys() >= {"seconds", "parameters", "peak_memory_bytes", "device", "versions", "seed"}
    assert summary["seed"] == 3
    assert summary["samples"] == 240
    assert summary["parameters"] == 124
    assert summary["versions"]["torch"] == torch.__version__
    lines = logged(folder)
    assert [line["step"] for line in lines if "train/loss" in line] == [*range(4, 29, 4), 30]
    assert [line["step"] for line in lines if "val/accuracy" in line] == list(range(5, 31, 5))
    assert lines[0].keys() >= {"train/accuracy", "train/cross_entropy", "lr", "grad_norm", "epoch", "tokens_per_second"}
    assert 0 < lines[0]["data_wait"] < 1
    assert lines[-1]["epoch"] == 30 // 8
    output = capsys.readouterr().err
    assert "124 parameters, cpu in fp32, 64 train, 10 val, 10 test samples" in output
    assert "done: " in output
    # A checkpoint's own numbers are those of its step; the best of them was tested.
    best = CheckpointStore(folder, monitor="val/accuracy", mode="max").read("best")
    assert best.step == summary["best_step"]
    assert summary["metrics"]["val/accuracy"] == max(line["val/accuracy"] for line in lines if "val/accuracy" in line)


def test_evaluation_and_logging_change_nothing_of_the_training(tmp_path: Path) -> None:
    trained(tmp_path / "a", eval_every=None, log_every=100, test=False)
    trained(tmp_path / "b", eval_every=1, log_every=1, workers=2)
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_seeds_change_the_run(tmp_path: Path) -> None:
    trained(tmp_path / "a", seed=0)
    trained(tmp_path / "b", seed=1)
    assert not torch.equal(weights(tmp_path / "a")["head.weight"], weights(tmp_path / "b")["head.weight"])


@pytest.mark.parametrize("size", [6, 7])
def test_accumulation_equals_a_larger_batch(tmp_path: Path, size: int) -> None:
    # Two batches of an epoch side by side are one of twice the size; a bad sample makes them uneven.
    # Without dropout, and with the same augmentation, as that is each sample's own.
    common = {"task": {"dropout": 0.0}, "data": {"samples": 12 * size, "unreadable": (3,)}, "max_bad_share": 0.2}
    trained(tmp_path / "small", batch_size=size, accumulate=2, **common)
    trained(tmp_path / "large", batch_size=2 * size, **common)
    assert_close(weights(tmp_path / "small"), weights(tmp_path / "large"))
    ours, theirs = (logged(tmp_path / name, timed=False)[0] for name in ("small", "large"))
    assert ours["tokens"] == theirs["tokens"]
    assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)


def test_accumulation_by_tokens_takes_batches_until_there_are_as_many(tmp_path: Path) -> None:
    common = {"task": {"dropout": 0.0}, "batch_size": 4, "steps": 1, "log_every": 1, "eval_every": None, "test": False}
    trained(tmp_path / "tokens", accumulate_tokens=50, **common)
    (line,) = logged(tmp_path / "tokens", timed=False)
    assert line["tokens"] >= 50
    batches = line["samples"] // 4
    trained(tmp_path / "batches", accumulate=batches, **common)
    assert logged(tmp_path / "batches", timed=False)[0]["tokens"] == line["tokens"]
    ours, theirs = weights(tmp_path / "tokens"), weights(tmp_path / "batches")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # The last batch was needed.
    trained(tmp_path / "fewer", accumulate=batches - 1, **common)
    assert logged(tmp_path / "fewer", timed=False)[0]["tokens"] < 50
    with pytest.raises(ValidationError, match="accumulate and accumulate_tokens both tell"):
        toy_config(tmp_path / "both", accumulate=2, accumulate_tokens=50)


def test_batches_by_tokens(tmp_path: Path) -> None:
    summary = trained(tmp_path / "run", batch_tokens=40)
    assert 6 * 34 < summary["tokens"] <= 6 * 40


def test_ema_is_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    summary = trained(tmp_path / "run", ema=0.5, save_every=None)
    ema, own = weights(tmp_path / "run", "ema"), weights(tmp_path / "run")
    assert not torch.equal(ema["head.weight"], own["head.weight"])
    again = evaluate_run(tmp_path / "run", "test", config=toy_config(tmp_path / "run"))
    assert again == {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}


def test_gradients_are_clipped(tmp_path: Path) -> None:
    trained(tmp_path / "run", optim={"clip_grad_norm": 1e-12, "weight_decay": 0.0, "eps": 1.0})
    trained(tmp_path / "none", optim={"clip_grad_norm": None, "weight_decay": 0.0, "eps": 1.0})
    assert all(line["grad_norm"] > 0.01 for line in logged(tmp_path / "run") if "grad_norm" in line)
    moments = weights(tmp_path / "run", "optimizer")
    assert max(value.abs().max() for name, value in moments.items() if name.startswith("exp_avg/")) < 1e-11
    assert weights(tmp_path / "none", "optimizer")["exp_avg/head.weight"].abs().max() > 1e-4


def test_bf16_trains(tmp_path: Path) -> None:
    assert trained(tmp_path / "run", steps=30, precision="bf16")["metrics"]["test/accuracy"] >= 0.9


def test_a_time_limit_ends_the_run_with_its_schedule(tmp_path: Path) -> None:
    summary = trained(
        tmp_path / "run", steps=100_000, time_limit=0.01, clock="cpu", log_every=1, save_every=None, eval_every=1000,
        optim={"schedule": {"type": "wsd"}},
    )  # fmt: skip
    assert 0.6 <= summary["seconds"] < 5
    assert 2 < summary["steps"] < 100_000
    assert "test/accuracy" in summary["metrics"]
    lines = [line for line in logged(tmp_path / "run") if "lr" in line]
    assert lines[3]["lr"] == 0.02
    assert lines[-1]["lr"] < 0.01


def test_a_run_can_be_timed_by_what_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter(range(1000))
    monkeypatch.setattr("time.process_time", lambda: float(next(busy)))
    summary = trained(tmp_path / "run", steps=100_000, time_limit=0.5, clock="cpu", eval_every=1000)
    assert summary["seconds"] == 31.0 and summary["steps"] == 15


def test_the_processors_clock_leaves_out_waiting_and_evaluation(tmp_path: Path) -> None:
    waiting: dict[str, Any] = {"data": {"delay": 0.01}, "steps": 8, "eval_every": 2}
    wall, own = (trained(tmp_path / clock, clock=clock, **waiting)["seconds"] for clock in ("wall", "cpu"))
    assert wall > 8 * 8 * 0.01  # every sample waits
    assert 0 < own < wall / 3


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run already, with a checkpoint of step 6; .*--resume.*run.dir"):
        train(toy_config(folder))
    assert (folder / "metrics.jsonl").read_bytes() == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"not a run folder: it holds thesis.tex; choose another"):
        train(toy_config(tmp_path / "home"), resume=True)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, {"steps": 1000}, TOY_GATE=f"10:{tmp_path / 'gate'}")
    wait_for_step(folder, 2)
    with pytest.raises(UserError, match=r"run is being written by another process; wait for it, or choose another"):
        train(toy_config(folder), resume=True)
    process.terminate()
    (tmp_path / "gate").touch()
    assert finished(process) == 143


def test_a_run_that_cannot_start_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        train(toy_config(tmp_path / "run", init_from=tmp_path / "nowhere"))
    trained(tmp_path / "run")


def test_the_default_folder_names_data_and_task(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    assert run_dir(config) == tmp_path
    assert run_dir(config.model_copy(update={"run": type(config.run)()})) == Path("runs/toy-toy")


def test_resuming_nothing_starts_and_resuming_the_end_only_evaluates(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(toy_config(folder), resume=True)
    first = weights(folder)
    (folder / "summary.json").unlink()
    train(toy_config(folder), resume=True)
    assert all(torch.equal(value, first[name]) for name, value in weights(folder).items())
    assert len([line for line in logged(folder) if "lr" in line]) == 3
    assert "test/accuracy" in json.loads((folder / "summary.json").read_text())["metrics"]


def test_a_signal_while_evaluating_is_answered_and_the_evaluation_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **keywords: Any) -> dict[str, float] | None:
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*args, **keywords)

    trained(tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr("hrt_mm.train.run.evaluate", interrupted)
        with pytest.raises(Stopped):
            train(toy_config(tmp_path / "stopped"))
    assert CheckpointStore(tmp_path / "stopped").steps() == [4]
    assert not any("val/loss" in line for line in logged(tmp_path / "stopped"))
    train(toy_config(tmp_path / "stopped"), resume=True)
    assert logged(tmp_path / "stopped", timed=False) == logged(tmp_path / "straight", timed=False)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", steps=4))
    train(toy_config(tmp_path / "run", steps=8, workers=1), resume=True)
    assert [line["step"] for line in logged(tmp_path / "run") if "lr" in line] == [2, 4, 6, 8]


def changed(folder: Path, **keywords: Any) -> RunConfig:
    return toy_config(folder, **({"save_every": 2} | keywords))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"optim": {"lr": 0.5}}, r"optim.lr: saved with 0.02, now 0.5"),
        ({"dim": 4}, r"model.levels.0.dim: saved with 8, now 4"),
        ({"batch_tokens": 30}, r"train.batch_size: saved with 8, now None(?s:.)*train.batch_tokens"),
        ({"data": {"samples": 65}}, r"data.samples: saved with 64, now 65"),
        ({"ema": 0.9}, r"train.ema: saved with None, now 0.9"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    tmp_path: Path, keywords: dict[str, Any], message: str
) -> None:
    train(changed(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=message):
        train(changed(tmp_path / "run", **keywords), resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(changed(tmp_path / "run"))
    # The same configuration, but code that builds another model of it.
    monkeypatch.setattr("hrt_mm.train.folder.check_same_run", lambda config, checkpoint: None)
    with pytest.raises(
        UserError, match=r"step-00000006 is not of this model: .*embedding.weight has shape \(8, 4\), not"
    ):
        train(changed(tmp_path / "run", dim=4), resume=True)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    train(changed(folder))
    expected = weights(folder)
    path = folder / "checkpoints" / "step-00000006" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    train(changed(folder), resume=True)
    assert "model.safetensors is cut short: expected" in caplog.text
    assert "goes on from the good checkpoint" in caplog.text
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder).items())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"data": {"not_a_number": (7,)}}, r"the loss is not finite; that began in the input \(samples: train/"),
        ({"task": {"explode": True}}, r"the loss is finite, its gradient is not; that began in level 'sums' \(head"),
    ],
)
def test_nan_stops_with_step_level_and_checkpoint(tmp_path: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(NonFiniteError, match=message) as caught:
        train(toy_config(tmp_path / "run", save_every=1, steps=20, **keywords))
    text = str(caught.value)
    step = int(text.removeprefix("step ").partition(":")[0])
    if step > 1:
        assert f"the last good checkpoint is {tmp_path}/run/checkpoints/step-{step - 1:08d}" in text
        assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    else:
        assert "no checkpoint was saved yet" in text


def test_bad_samples_are_counted_in_the_summary(tmp_path: Path) -> None:
    data = {"unreadable": (1, 2), "empty": (3,), "mislabelled": (4,)}
    summary = trained(tmp_path / "run", steps=8, data=data, max_bad_share=0.1)
    bad = summary["bad_samples"]["train"]
    assert bad["seen"] == 64
    assert bad["bad"] == 4
    assert bad["names"] == {
        "train/1": "it is cut short", "train/2": "it is cut short", "train/3": "it is empty",
        "train/4": "label 'strange' is unknown",
    }  # fmt: skip
    assert summary["samples"] == 60
    with pytest.raises(UserError, match=r"4 of the 64 samples of train(?s:.)*max_bad_share 0.05"):
        trained(tmp_path / "strict", steps=9, data=data, max_bad_share=0.05)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_training_lacks_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(ConfigError, match=rf"the {split} split has a class that the train split has not: 'odd'"):
        train(toy_config(tmp_path / "run", data={"odd_class": (split,)}))
    assert not (tmp_path / "run").exists()


def test_an_empty_split_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the val split is empty \(train.eval_every=null trains without"):
        train(toy_config(tmp_path / "run", data={"held_out": 0}))
    summary = trained(tmp_path / "run", data={"held_out": 0}, eval_every=None, test=False)
    with pytest.raises(ConfigError, match=r"the test split is empty$"):
        evaluate_run(tmp_path / "run", "test", config=toy_config(tmp_path / "run", data={"held_out": 0}))
    assert summary["metrics"] == {}
    assert summary["best_step"] == 6


@pytest.mark.parametrize("emulated", [True, False])
def test_slow_bf16_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, emulated: bool
) -> None:
    monkeypatch.setattr("hrt_mm.train.loop.emulates_bf16", lambda device: emulated)
    train(toy_config(tmp_path / "run", precision="bf16"))
    assert ("this processor has no AVX512-BF16" in caplog.text) == emulated


def test_a_warmup_that_never_ends_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(toy_config(tmp_path / "run", optim={"warmup_steps": 50}))
    assert "optim.warmup_steps 50 is not less than train.steps 6" in caplog.text


def test_a_full_disk_while_saving_costs_that_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = files.write_flushed

    def full(path: Path, data: bytes) -> None:
        if "step-00000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(checkpoint_module, "write_flushed", full)
    with caplog.at_level(logging.WARNING):
        summary = trained(tmp_path / "run", save_every=2, eval_every=None, keep_last=9)
    assert summary["failed_saves"] == 1
    assert "checkpoint of step 4 could not be written ([Errno 28] No space left on device), failure 1" in caplog.text
    assert "the last good checkpoint is" in caplog.text
    assert CheckpointStore(tmp_path / "run").steps() == [2, 6]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_full_disk_at_the_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_flushed", full)
    with pytest.raises(
        UserError, match=r"the last checkpoint, of step 6, could not be written .*there is no checkpoint"
    ):
        train(toy_config(tmp_path / "run", save_every=2))


def test_weights_start_from_another_run(tmp_path: Path) -> None:
    trained(tmp_path / "first", ema=0.5)
    common: dict[str, Any] = {"steps": 1, "optim": {"lr": 1e-12}, "init_from": tmp_path / "first"}
    trained(tmp_path / "second", **common)
    source, result = weights(tmp_path / "first", "ema"), weights(tmp_path / "second")
    for name, value in result.items():
        if name.startswith("encoder."):
            torch.testing.assert_close(value, source[name], rtol=0, atol=1e-9)
    assert not torch.allclose(result["head.weight"], source["head.weight"])
    with pytest.raises(UserError, match=r"the encoder of .*first is not of this model: .*embedding.weight has shape"):
        train(toy_config(tmp_path / "third", dim=4, **common))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        train(toy_config(tmp_path / "fourth", **common | {"init_from": tmp_path / "nowhere"}))


# Dynamo looks at the .grad of what it resumes with.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_it_trains_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The default backend takes a minute to make C++ of this; that it does so rightly is torch's own to test.
    compiled: list[str] = []

    def compile_quickly(task: torch.nn.Module) -> None:
        compile_regions(task, "eager")
        compiled.append(type(task).__name__)

    monkeypatch.setattr("hrt_mm.train.run.compile_regions", compile_quickly)
    common: dict[str, Any] = {"steps": 3, "eval_every": None, "test": False, "task": {"dropout": 0.0}}
    trained(tmp_path / "plain", **common)
    assert not compiled
    trained(tmp_path / "compiled", compile=True, **common)
    assert compiled == ["ToyTask"]
    assert_close(weights(tmp_path / "compiled"), weights(tmp_path / "plain"))


def test_a_time_limit_is_told_with_unit_and_clock_and_an_early_end_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"steps": 100_000, "eval_every": None, "test": False, "time_limit": 0.001}
    train(toy_config(tmp_path / "run", **options, optim={"warmup_steps": 90_000}))
    error = capsys.readouterr().err
    assert "train.time_limit 0.06 s (wall clock), or 100,000 steps" in error
    assert "train.time_limit reached at step" in error
    assert "within the 90000 steps of optim.warmup_steps: lr was never reached" in caplog.text
    train(toy_config(tmp_path / "cpu", **options, clock="cpu", log_every=1, optim={"warmup_steps": 0}))
    error = capsys.readouterr().err
    assert "train.time_limit 0.06 s (processor time of this process)" in error
    assert "left (both by processor time)" in error


def test_a_signal_while_data_is_made_ends_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(self: ToyData, split: str) -> Dataset:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(ToyData, "build", endless)
        with pytest.raises(Stopped):
            train(toy_config(tmp_path / "run"))
    assert "stopped by SIGTERM before the first step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    trained(tmp_path / "run")
