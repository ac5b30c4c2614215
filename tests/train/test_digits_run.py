"""The whole way on real scans: from a configuration by name, over a resumed run, to an evaluation from its folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import ConfigError, Stopped
from hrt_mm.inference.trained import evaluate_run, load_task
from hrt_mm.tasks.batch import Batch
from hrt_mm.tasks.classification import Classification
from hrt_mm.train.loop import train
from hrt_mm.train.run import Run
from hrt_mm.train.store import CheckpointStore
from tests.train.toy_processes import logged


def digits(folder: Path, *overrides: str) -> RunConfig:
    short = ["train.steps=20", "train.batch_size=16", "train.eval_every=10", "train.save_every=null"]
    fixed = ["train.log_every=4", "train.tensorboard=false", "train.num_threads=1", "train.precision=fp32"]
    return load_config("vision/digits", [*short, *fixed, "optim.warmup_steps=4", f"run.dir={folder}", *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(digits(tmp_path_factory.mktemp("digits") / "run"))


def test_digits_are_learnt(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["metrics"]["test/accuracy"] > 0.3
    assert summary["counts"]["test"] == 359
    losses = [line["train/loss"] for line in logged(run) if "train/loss" in line]
    assert losses[-1] < losses[0]


def test_a_stopped_and_resumed_run_is_the_same_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_step = Run.count_step

    def stopped_at_step_7(self: Run, batches: Sequence[Batch], values: dict[str, float]) -> None:
        count_step(self, batches, values)
        if self.state.step == 7:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "count_step", stopped_at_step_7)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            train(digits(tmp_path))
    assert CheckpointStore(tmp_path).steps() == [7]
    train(digits(tmp_path, "train.workers=2"), resume=True)
    for part in ("model", "optimizer"):
        name = f"checkpoints/step-00000020/{part}.safetensors"
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), part
    assert logged(tmp_path, timed=False) == logged(run, timed=False)


def test_a_run_is_evaluated_from_its_folder(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    options = ["train.num_threads=1"]
    result = evaluate_run(run, "test", options)
    assert result == {name: value for name, value in summary["metrics"].items() if name.startswith("test/")}
    assert evaluate_run(run, "test", [*options, "train.batch_size=500"]) == pytest.approx(result, rel=1e-5)
    loaded = load_task(run)
    assert isinstance(loaded.task, Classification)
    assert loaded.classes == tuple("0123456789")
    with pytest.raises(ConfigError):
        evaluate_run(run, "holdout")


def test_masked_pretraining_starts_a_classification(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = ["task={type: masked, unit: strokes, normalize: false}", "model.cross_scale.up=false"]
    train(digits(tmp_path / "masked", *task, "train.steps=2", "train.eval_every=2"))
    start = ["train.steps=1", "optim.lr=1e-9", "train.eval_every=null", "train.test=false"]
    train(digits(tmp_path / "tuned", *start, f"train.init_from={tmp_path / 'masked'}"))
    # The way up is new in the second run; all else was trained in the first.
    assert "are missing there and keep their random initialization: encoder.hierarchy" in caplog.text
    source, result = (CheckpointStore(tmp_path / name).read("latest").tensors("model") for name in ("masked", "tuned"))
    common = {name for name in result if name.startswith("encoder.") and name in source}
    assert 0.5 * len(result) < len(common) < len(result)
    for name in common:
        torch.testing.assert_close(result[name], source[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_digits_are_learnt_on_cuda(tmp_path: Path) -> None:
    cuda = ["train.device=cuda", "train.precision=auto", "train.ema=0.9"]
    train(digits(tmp_path, *cuda, "train.steps=10"))
    train(digits(tmp_path, *cuda, "train.steps=40", "train.workers=2"), resume=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"]["test/accuracy"] > 0.3
    assert summary["precision"] == "bf16"
    assert summary["versions"]["cuda"] == torch.version.cuda
    assert evaluate_run(tmp_path, "test", ["train.device=cpu", "train.precision=fp32"])["test/accuracy"] > 0.3
