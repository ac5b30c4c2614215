"""Language models on a corpus, stopped and resumed: the same losses and weights as in an uninterrupted run."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import Stopped
from hrt_mm.tasks.batch import Batch
from hrt_mm.train.loop import train
from hrt_mm.train.run import Run
from hrt_mm.train.store import CheckpointStore
from hrt_modalities.text.subwords import train_subwords
from tests.train.toy_processes import logged

STEPS = 16
TEXTS = [f"Dokument {index} ist größer als 文 {index}. " * (index % 3 + 2) for index in range(14)]


def config(home: Path, folder: Path, kind: str, workers: int) -> RunConfig:
    files, subwords = ("a.jsonl", f", subwords: {home}/t.json") if kind == "subwords" else ("texts", "")
    (home / "run.yaml").write_text(
        f"""
modality: {{type: text{subwords}}}
model:
  levels:
    - {{name: fine, dim: 16, depth: 1, heads: 2, window: 4, window_type: sliding, group: {{type: fixed, stride: 3}}}}
    - {{name: coarse, dim: 16, depth: 1, heads: 2}}
  causal: true
  top_down: true
task: {{type: language}}
data: {{type: corpus, files: [{home}/{files}], val: 0.2, test: null, context: 32}}
optim: {{lr: 4.0e-3, warmup_steps: 3}}
train:
  {{steps: {STEPS}, batch_size: 4, eval_every: 8, log_every: 1, save_every: 4, tensorboard: false, precision: fp32,
    num_threads: 1, test: false, workers: {workers}}}
run: {{dir: {folder}}}
"""
    )
    return load_config(home / "run.yaml")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("corpus")
    (home / "texts").mkdir()
    for index, text in enumerate(TEXTS):
        (home / "texts" / f"{index}.txt").write_text(text)
    (home / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    train_subwords(TEXTS, 280, home / "t.json")
    return home


@pytest.mark.parametrize(("kind", "workers"), [("bytes", 0), ("bytes", 2), ("subwords", 0)])
def test_a_stopped_and_resumed_run_is_the_same_run(
    kind: str, workers: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(home, tmp_path / "whole", kind, 0))
    count_step, broken = Run.count_step, tmp_path / "broken"

    def stopped(self: Run, batches: Sequence[Batch], values: dict[str, float]) -> None:
        count_step(self, batches, values)
        if self.state.step in (5, 11):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "count_step", stopped)
        for step in (5, 11):
            with pytest.raises(Stopped):
                train(config(home, broken, kind, workers), resume=step > 5)
            assert CheckpointStore(broken).steps()[-1] == step and not (broken / "summary.json").exists()
    train(config(home, broken, kind, workers), resume=True)
    lines = logged(whole, timed=False)
    assert sum("train/loss" in line for line in lines) == STEPS
    assert logged(broken, timed=False) == lines
    for part in ("model", "optimizer"):
        name = f"checkpoints/step-{STEPS:08d}/{part}.safetensors"
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), part
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (broken, whole))
    assert ours["metrics"] == theirs["metrics"] and ours["samples"] == theirs["samples"] == STEPS * 4
