"""Exported files are those of the model, at all sizes; what cannot be exported is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrt_mm import ConfigError, UserError, load_config
from hrt_mm.cli.main import main
from hrt_mm.config import RunConfig
from hrt_mm.inference import TrainedRun, export, export_run
from hrt_mm.train.build import build_task, build_tokenizers

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

IMAGES = ["model.levels.pixels.dim=8", "model.levels.strokes.dim=8", "model.levels.digit.dim=8"]
HEADS = ["model.levels.pixels.heads=1", "model.levels.strokes.heads=1", "model.levels.digit.heads=1"]
DEPTHS = ["model.levels.digit.depth=1", "modality.stem.type=linear"]
CLASSES = tuple("0123456789")


def run_of(config: RunConfig, folder: Path) -> TrainedRun:
    """A run whose weights are random, so that every branch and gate is open."""
    torch.manual_seed(0)
    tokenizers = build_tokenizers(config)
    task = build_task(config, tokenizers, CLASSES)
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    checkpoint: Any = SimpleNamespace(step=7, state={})
    return TrainedRun(folder, config, task.eval(), tokenizers, CLASSES, checkpoint)


def test_a_classifier_of_images_as_onnx(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    run = run_of(load_config("vision/digits", [*IMAGES, *HEADS, *DEPTHS]), tmp_path)
    path = tmp_path / "digits.onnx"
    report = export_run(run, path, "onnx")
    assert report.error <= export.TOLERANCE and report.num_bytes == path.stat().st_size
    assert len(set(report.shapes)) == 5
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    described = json.loads(metadata["hrt_mm"])
    assert described["classes"] == list(CLASSES) and described["preprocessing"]["mean"] == [0.3]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("images", ["batch", 1, "height", "width"])
    ]
    images = torch.rand(2, 1, 9, 17)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    task: Any = run.task
    with torch.no_grad():
        expected = task.view_logits(task.encoder(run.tokenizer(list(images))))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(load_config("vision/digits", [*IMAGES, *HEADS, *DEPTHS]), tmp_path)
    path = tmp_path / "digits.pt2"
    path.write_bytes(b"the previous one")
    monkeypatch.setattr(export, "_write_pt2", lambda *arguments: None)
    monkeypatch.setattr(
        export, "_check", lambda *arguments: export.ExportedFile(path, float("nan"), 0, [], 0.0, 0.0, "")
    )
    monkeypatch.setattr(export, "_pt2", lambda path: lambda inputs: torch.zeros(1))
    with pytest.raises(UserError, match=r"differs from the model by nan.*was not written"):
        export_run(run, path, "pt2")
    assert path.read_bytes() == b"the previous one"


def test_what_torch_cannot_trace_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(load_config("vision/digits", [*IMAGES, *HEADS, *DEPTHS]), tmp_path)

    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("data-dependent size u0\nmore")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(UserError, match="cannot trace the model: data-dependent size u0 Run this model in PyTorch"):
        export_run(run, tmp_path / "a.pt2", "pt2")


def test_differences_are_measured(tmp_path: Path) -> None:
    run = run_of(load_config("vision/digits", [*IMAGES, *HEADS, *DEPTHS]), tmp_path)
    model, _ = export._model(run, None, None, None)
    (tmp_path / "file").write_bytes(b"1234")

    def off(inputs: Any, by: float) -> torch.Tensor:
        output = model(*inputs.values())
        output[-1, -1] += by
        return output

    with torch.no_grad():
        exact = export._check(model, lambda inputs: off(inputs, 0.0), tmp_path, tmp_path / "file")
        wrong = export._check(model, lambda inputs: off(inputs, 0.5), tmp_path, tmp_path / "file")
        broken = export._check(model, lambda inputs: off(inputs, float("nan")), tmp_path, tmp_path / "file")
    assert exact.error < 1e-5 and exact.num_bytes == 4
    assert wrong.error > 0.05 and broken.error == float("inf")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    run = run_of(load_config("vision/digits", [*IMAGES, *HEADS, *DEPTHS]), tmp_path)
    with pytest.raises(UserError, match="quantization is that of ONNX Runtime"):
        export_run(run, tmp_path / "a.pt2", "pt2", int8=True)
    with pytest.raises(UserError, match="drop --tower"):
        export_run(run, tmp_path / "a.pt2", "pt2", tower="images")
    with pytest.raises(UserError, match="--level is that of an embedding"):
        export_run(run, tmp_path / "a.pt2", "pt2", level="pixels")
    grouped = run_of(load_config("audio/synthetic"), tmp_path)
    with pytest.raises(ConfigError, match=r"level 'frames' has groups of type given.*type: fixed, stride: N"):
        export_run(grouped, tmp_path / "a.onnx", "onnx")


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "nothing"), "--onnx"]) == 2
    assert "is not a run folder" in capsys.readouterr().err


VIDEO = """
modality: {type: video, channels: 1, patch: 4, tube: 2, stem: {type: %s}}
model:
  levels:
    - {name: tubes, dim: 8, depth: 0, heads: 1, group: {type: fixed, stride: 2}}
    - {name: clips, dim: 8, depth: 1, heads: 1}
task: {type: classification, level: clips}
data: {type: rendered_video, label: action, shots: [1, 1]}
train: {steps: 1, batch_size: 1}
"""


@pytest.mark.parametrize("stem", ["linear", "conv"])
@torch.no_grad()
def test_videos_of_any_duration_and_size(stem: str, tmp_path: Path) -> None:
    (tmp_path / "video.yaml").write_text(VIDEO % stem)
    run = run_of(load_config(str(tmp_path / "video.yaml")), tmp_path)
    model, _ = export._model(run, None, None, None)
    traced = export._traced(model).module()
    for batch, size in ((1, 1), (2, 4)):
        videos = [model.tokenizer.dense_example(size) for _ in range(batch)]
        expected = model.read(model.encoder(run.tokenizer(videos)))
        got = traced(*model.tokenizer.dense_batch(videos).values())
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
