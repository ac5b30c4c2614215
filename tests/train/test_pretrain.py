"""Two runs joined by one key, for images, texts and sounds; stopped or killed in either, they end as if not."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import ConfigError, Stopped
from hrt_mm.inference.trained import load_task
from hrt_mm.tasks import LanguageModel, Masked
from hrt_mm.tasks.batch import Batch
from hrt_mm.train.check import check
from hrt_mm.train.checkpoint import CheckpointError
from hrt_mm.train.loop import train
from hrt_mm.train.pretrain import without_bottom_up
from hrt_mm.train.run import Run
from hrt_mm.train.store import CheckpointStore
from tests.modalities.audio.small_corpora import sound
from tests.train.toy_processes import logged

FIXED = ["train.tensorboard=false", "train.num_threads=1", "train.precision=fp32", "optim.warmup_steps=4"]
SHORT = ["train.steps=8", "train.eval_every=4", "train.save_every=2", "train.log_every=4"]


def digits(folder: Path, *overrides: str) -> RunConfig:
    pretrain = "train.pretrain={task: {type: masked, unit: strokes, normalize: false}, steps: 6}"
    short = ["train.batch_size=16", "data.use=0.1", *SHORT, *FIXED]
    return load_config("vision/digits", [*short, pretrain, f"run.dir={folder}", *overrides])


def texts(folder: Path, causal: bool = False) -> list[str]:
    """Settings for documents that go up or down the alphabet: what is hidden follows from what is around it."""
    rows = []
    for number in range(60):
        step = 1 if number % 2 else -1
        text = "".join("abcdefgh"[(number + step * index) % 8] for index in range(24 + number % 7))
        rows.append(
            {"text": text, "label": "up" if step > 0 else "down", "split": ("train", "val", "test")[number % 3]}
        )
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    fine = (
        "{name: bytes, dim: 32, depth: 1, heads: 2, window: 8, window_type: sliding, group: {type: fixed, stride: 4}}"
    )
    return [
        "modality={type: text}", f"data={{type: documents, file: {file}}}", "task={type: classification, level: top}",
        f"model={{levels: [{fine}, {{name: top, dim: 32, depth: 1, heads: 2}}], causal: {str(causal).lower()}}}",
        "train.batch_size=20", "optim.lr=5e-3", *FIXED,
    ]  # fmt: skip


def settings(folder: Path, words: Sequence[str]) -> RunConfig:
    empty = folder / "empty.yaml"
    empty.write_text("{}\n")
    return load_config(empty, words)


def summary(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return result


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return CheckpointStore(folder).read("latest").tensors("model")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(digits(tmp_path_factory.mktemp("whole") / "run"))


def test_the_second_run_starts_from_the_encoder_of_the_first(tmp_path: Path, whole: Path) -> None:
    assert summary(whole / "pretrain")["steps"] == 6
    assert "val/reconstruction" in summary(whole / "pretrain")["metrics"]
    assert summary(whole)["steps"] == 8
    assert isinstance(load_task(whole / "pretrain").task, Masked)
    still = train(digits(tmp_path / "still", "train.steps=1", "optim.lr=1e-9", "train.eval_every=null"))
    # At that rate nothing moves, in the first run neither; the weights that both have are those of the first.
    source, result = tensors(still / "pretrain"), tensors(still)
    common = {name for name in result if name.startswith("encoder.") and name in source}
    assert 0.5 * len(result) < len(common) < len(result)
    for name in common:
        torch.testing.assert_close(result[name], source[name], rtol=0, atol=1e-6, msg=name)
    moved, fresh = tensors(whole / "pretrain"), tensors(still / "pretrain")
    assert any((moved[name] - fresh[name]).abs().max() > 1e-3 for name in common)


@pytest.mark.parametrize(("run", "step", "end"), [("pretrain", 3, signal.SIGKILL), ("run", 5, signal.SIGTERM)])
def test_stopped_or_killed_in_either_run_it_ends_as_the_whole(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, run: str, step: int, end: signal.Signals
) -> None:
    count_step = Run.count_step

    def ended(self: Run, batches: Sequence[Batch], values: dict[str, float]) -> None:
        count_step(self, batches, values)
        if self.state.step == step and (self.folder.name == "pretrain") == (run == "pretrain"):
            if end == signal.SIGKILL:
                raise MemoryError("killed")
            signal.raise_signal(end)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "count_step", ended)
        with pytest.raises(MemoryError if end == signal.SIGKILL else Stopped):
            train(digits(folder))
    assert not (folder / "summary.json").exists()
    assert (folder / "pretrain" / "summary.json").exists() == (run == "run")
    with pytest.raises(ConfigError, match=rf"run.dir {folder}\S* holds a run already.*--resume"):
        train(digits(folder))
    train(digits(folder), resume=True)
    for part in ("", "pretrain"):
        name = f"checkpoints/step-{6 if part else 8:08d}/model.safetensors"
        assert (folder / part / name).read_bytes() == (whole / part / name).read_bytes()
        assert logged(folder / part, timed=False) == logged(whole / part, timed=False)


def test_once_the_second_run_has_begun_the_first_is_not_needed(tmp_path: Path, whole: Path) -> None:
    folder = train(digits(tmp_path / "run", "train.steps=4"))
    (folder / "pretrain").rename(tmp_path / "away")
    train(digits(folder), resume=True)
    name = "checkpoints/step-00000008/model.safetensors"
    assert (folder / name).is_file() and not (folder / "pretrain").exists()


def test_another_pretraining_does_not_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(digits(folder / "pretrain", "train.steps=2", "train.pretrain=null"))
    with pytest.raises(CheckpointError, match=r"task.type: saved with 'classification', now 'masked'"):
        train(digits(folder), resume=True)


@pytest.mark.parametrize(
    ("causal", "task", "kind"),
    [
        (False, "{type: masked, unit: bytes, ratio: 0.2}", Masked),
        (True, "{type: masked, unit: bytes, ratio: 0.2}", Masked),
        (True, "{type: language}", LanguageModel),
    ],
    ids=["masked", "masked causal", "language"],
)
def test_texts_are_denoised_and_then_told_apart(tmp_path: Path, causal: bool, task: str, kind: type[object]) -> None:
    words = [*texts(tmp_path, causal), "train.steps=6", "train.eval_every=6", f"run.dir={tmp_path / 'run'}"]
    folder = train(settings(tmp_path, [*words, f"train.pretrain={{task: {task}, steps: 120, batch_size: 10}}"]))
    assert isinstance(load_task(folder / "pretrain").task, kind)
    first = summary(folder / "pretrain")
    assert first["samples"] == 1200
    # A guess without the context is right once in eight times, and cannot say which way the alphabet goes.
    assert first["metrics"]["val/accuracy"] > 0.6
    assert summary(folder)["metrics"]["test/accuracy"] > 0.7


def test_sounds_are_denoised_and_then_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        sound(tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav", 0.3)
    monkeypatch.chdir(tmp_path)
    pretrain = "train.pretrain={task: {type: masked, unit: phonemes, ratio: 0.3, normalize: false}, steps: 6}"
    words = [*SHORT, *FIXED, "train.batch_tokens=256", pretrain, "run.dir=run"]
    folder = train(load_config("audio/audio_folder", words))
    assert "val/reconstruction" in summary(folder / "pretrain")["metrics"]
    assert "test/accuracy" in summary(folder)["metrics"]


def test_all_of_the_first_model_reaches_the_finest_level() -> None:
    both = load_config("vision/digits").single.model
    assert both.cross_scale.up and both.cross_scale.down
    assert without_bottom_up(both).cross_scale.model_dump() == {"up": False, "down": True}
    assert not without_bottom_up(both).top_down
    none = both.model_copy(update={"cross_scale": both.cross_scale.model_copy(update={"up": False, "down": False})})
    assert without_bottom_up(none).top_down


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.pretrain.task.typ=masked", r"train.pretrain.task.typ: unknown key; did you mean 'type'"),
        ("train.pretrain.task={type: classification}", r"'classification'.*one of masked, language"),
        (
            "train.pretrain={task: {type: masked}, steps: 2, batch_size: 5, batch_tokens: 5}",
            r"batch_size and batch_tokens are alternatives; keep one",
        ),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits(Path("run"), override)
    with pytest.raises(ConfigError, match=r"train.pretrain.task: the key is missing"):
        load_config("vision/digits", ["train.pretrain={steps: 2}"])


def test_a_model_that_cannot_be_pretrained_is_told() -> None:
    with pytest.raises(ConfigError, match=r"train.pretrain: task language needs model.causal: true"):
        check(digits(Path("run"), "train.pretrain.task={type: language}"))
