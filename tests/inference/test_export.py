"""Exported files are those of the model, at all sizes; what cannot be exported is refused."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrt_mm import UserError, load_config
from hrt_mm.cli.main import main
from hrt_mm.config import RunConfig
from hrt_mm.inference import TrainedRun, export, export_run, trained
from hrt_mm.train.build import build_task, build_tokenizers

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = tuple("0123456789")
TRAIN = "train: {steps: 1, batch_size: 1}"
IMAGES = f"""
modality: {{type: vision, channels: 1, patch: 2, mean: 0.3, std: 0.38}}
model:
  levels:
    - {{name: strokes, dim: 8, depth: 1, heads: 1, window: 4, group: {{type: fixed, stride: 2}}, pool: conv}}
    - {{name: digit, dim: 8, depth: 0, heads: 1}}
  cross_scale: {{up: true}}
task: {{type: classification, level: digit}}
data: {{type: digits}}
{TRAIN}
"""
VIDEO = f"""
modality: {{type: video, channels: 1, patch: 4, tube: 2, stem: {{type: STEM}}}}
model:
  levels:
    - {{name: tubes, dim: 8, depth: 0, heads: 1, group: {{type: fixed, stride: 2}}}}
    - {{name: clips, dim: 8, depth: 0, heads: 1}}
task: {{type: classification, level: clips}}
data: {{type: rendered_video, label: action, shots: [1, 1]}}
{TRAIN}
"""
GROUPED = f"""
modality: {{type: text}}
model:
  levels:
    - {{name: bytes, dim: 8, depth: 0, heads: 1, group: {{type: given, boundary: words, typical: 4}}}}
    - {{name: words, dim: 8, depth: 1, heads: 1}}
  top_down: true
task: {{type: masked, unit: words}}
data: {{type: corpus, context: 64}}
{TRAIN}
"""
TOWERS = f"""
towers:
  image:
    modality: {{type: vision, channels: 1, patch: 8, size: 32}}
    model:
      levels: [{{name: parts, dim: 8, depth: 1, heads: 1}}]
  text:
    modality: {{type: text}}
    model:
      levels:
        - {{name: bytes, dim: 8, depth: 0, heads: 1, group: {{type: fixed, stride: 4}}}}
        - {{name: words, dim: 8, depth: 1, heads: 1}}
task: {{type: contrastive, dim: 6}}
data: {{type: glyphs}}
{TRAIN}
"""


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


def run_from(text: str, folder: Path) -> TrainedRun:
    path = folder / "config.yaml"
    path.write_text(text)
    return run_of(load_config(str(path)), folder)


@dataclass(frozen=True)
class Exported:
    """What ``hrt-mm export --onnx`` wrote and printed."""

    run: TrainedRun
    path: Path
    printed: str


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return run_from(IMAGES, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def exported(images: TrainedRun) -> Exported:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(trained, "load_task", lambda folder: images)
        patch.setattr("hrt_mm.cli.export.SAMPLES", 40)
        assert main(["export", str(images.folder), "--onnx", "--split", "test"]) == 0
    return Exported(images, images.folder / "model.onnx", printed.getvalue())


def packed(model: export.DenseModel, values: list[Any]) -> torch.Tensor:
    """What the model gives in PyTorch."""
    tokenizer: Any = model.tokenizer
    return model.read(model.encoder(tokenizer(values)))


def test_the_command_checks_at_five_sizes(exported: Exported) -> None:
    written, checked, timed, compared = exported.printed.splitlines()
    assert written.startswith(f"{exported.path}: ")
    assert "1x1x2x4, 2x1x5x6, 3x1x12x12, 1x1x17x16, 4x1x20x18" in checked
    assert float(checked.split()[2].rstrip(",")) <= export.TOLERANCE
    assert "ms in ONNX Runtime" in timed
    assert compared.startswith("test: the same class for 100.0% of 40 samples; accuracy ")
    file, eager = (float(part.split()[0]) for part in compared.partition("accuracy ")[2].split(", "))
    assert file == eager < 1


@torch.no_grad()
def test_a_classifier_of_images_as_onnx(exported: Exported) -> None:
    import onnx
    import onnxruntime

    metadata = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    described = json.loads(metadata["hrt_mm"])
    assert described["classes"] == list(CLASSES) and described["preprocessing"]["mean"] == [0.3]
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("images", ["batch", 1, "height", "width"])
    ]
    images = torch.rand(2, 1, 9, 17)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    task: Any = exported.run.task
    expected = task.view_logits(task.encoder(exported.run.tokenizer(list(images))))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def test_8_bit_weights(exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = exported.run, exported.run.folder / "small.onnx"

    def write(model: Any, written: Path, metadata: Any) -> None:
        written.write_bytes(exported.path.read_bytes())

    monkeypatch.setattr(trained, "load_task", lambda folder: run)
    monkeypatch.setattr(export, "_write_onnx", write)
    assert main(["export", str(run.folder), "--onnx", "--int8", "-o", str(path)]) == 0
    shown = capsys.readouterr()
    _, checked, full, timed = shown.out.splitlines()
    assert export.TOLERANCE < float(checked.split()[2].rstrip(",")) < 1
    assert full.startswith("in float32: ") and "ms in ONNX Runtime" in timed
    assert "WARNING" not in shown.err
    import onnx

    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "DynamicQuantizeLinear" in operators and "DynamicQuantizeLinear" not in {
        node.op_type for node in onnx.load(exported.path).graph.node
    }


def test_a_file_that_differs_is_not_written(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digits.pt2"
    path.write_bytes(b"the previous one")
    monkeypatch.setattr(export, "_write_pt2", lambda *arguments: None)
    monkeypatch.setattr(
        export, "_check", lambda *arguments: export.ExportedFile(path, float("nan"), 0, [], 0.0, 0.0, "")
    )
    monkeypatch.setattr(export, "_pt2", lambda path: lambda inputs: torch.zeros(1))
    with pytest.raises(UserError, match=r"differs from the model by nan.*was not written"):
        export_run(images, path, "pt2")
    assert path.read_bytes() == b"the previous one"


def test_what_torch_cannot_trace_is_a_user_error(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("data-dependent size u0\nmore")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(UserError, match=r"cannot trace the model: data-dependent size u0\. Run this model in PyTorch"):
        export_run(images, tmp_path / "a.pt2", "pt2")


def test_differences_and_times_are_measured(images: TrainedRun, tmp_path: Path) -> None:
    model, _ = export._model(images, None, None, None)
    (tmp_path / "file").write_bytes(b"1234")

    def check(by: float) -> export.ExportedFile:
        calls = iter(range(1000))

        def off(inputs: Any) -> torch.Tensor:
            output = model(*inputs.values())
            output[-1, -1] += by
            return output

        return export._check(model, off, tmp_path, tmp_path / "file", lambda: float(next(calls)))

    with torch.no_grad():
        exact, wrong, broken = check(0.0), check(0.5), check(float("nan"))
    assert exact.error < 1e-5 and exact.num_bytes == 4
    assert exact.milliseconds == exact.eager_milliseconds == 1000.0
    assert wrong.error > 0.05 and broken.error == float("inf")


@pytest.mark.parametrize("stem", ["linear", "conv"])
@torch.no_grad()
def test_videos_of_any_duration_and_size(stem: str, tmp_path: Path) -> None:
    model, _ = export._model(run_from(VIDEO.replace("STEM", stem), tmp_path), None, None, None)
    traced = export._traced(model).module()
    for batch, size in ((1, 1), (2, 4)):
        videos = [model.tokenizer.dense_example(size) for _ in range(batch)]
        got = traced(*model.tokenizer.dense_batch(videos).values())
        torch.testing.assert_close(got, packed(model, videos), atol=1e-4, rtol=1e-4)


def test_a_file_that_fails_at_a_size_is_a_user_error(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(inputs: Any) -> torch.Tensor:
        raise AssertionError("Guard failed: inputs_0.size()[0] > 1")

    monkeypatch.setattr(export, "_write_pt2", lambda *arguments: None)
    monkeypatch.setattr(export, "_pt2", lambda path: fails)
    with pytest.raises(UserError, match="fails at other sizes than those it was traced with: Guard failed"):
        export_run(images, tmp_path / "a.pt2", "pt2")


@torch.no_grad()
def test_a_tower_of_a_contrastive_run(tmp_path: Path) -> None:
    run = run_from(TOWERS, tmp_path)
    with pytest.raises(UserError, match=r"has several towers \(image, text\); choose one with --tower"):
        export_run(run, tmp_path / "a.pt2", "pt2")
    with pytest.raises(UserError, match=r"no tower 'sound': it has image, text"):
        export_run(run, tmp_path / "a.pt2", "pt2", tower="sound")
    with pytest.raises(UserError, match=r"task contrastive, which gives no class scores.*--output embedding"):
        export_run(run, tmp_path / "a.pt2", "pt2", tower="text", output="logits")
    model, metadata = export._model(run, None, None, "text")
    assert metadata["output"] == "embedding"
    traced = export._traced(model).module()
    texts = [b"a", b"heart", b"white star"]
    got = traced(*model.tokenizer.dense_batch(texts).values())
    assert got.shape == (3, 6)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(got, packed(model, texts), atol=1e-4, rtol=1e-4)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that fails."""
    assert main(["export", *arguments]) == 2
    shown = capsys.readouterr()
    assert not shown.out and "Traceback" not in shown.err
    return shown.err


def test_options_that_do_not_fit(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trained, "load_task", lambda folder: images)
    run, path = str(images.folder), str(tmp_path / "a.pt2")
    assert "quantization is that of ONNX Runtime" in refusal([run, "--pt2", "-o", path, "--int8"], capsys)
    assert "drop --tower" in refusal([run, "--pt2", "-o", path, "--tower", "images"], capsys)
    assert "--level is that of an embedding" in refusal([run, "--pt2", "-o", path, "--level", "strokes"], capsys)
    embedding = [run, "--pt2", "-o", path, "--output", "embedding"]
    assert "--split compares the classes of a classifier" in refusal([*embedding, "--split", "test"], capsys)
    assert "unknown level 'letters'" in refusal([*embedding, "--level", "letters"], capsys)


def test_paths_that_cannot_be_written(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trained, "load_task", lambda folder: images)
    missing = tmp_path / "missing" / "model.onnx"
    assert f"there is no folder {missing.parent}" in refusal([str(images.folder), "--onnx", "-o", str(missing)], capsys)
    assert not missing.parent.exists()
    assert f"{tmp_path} is a folder" in refusal([str(images.folder), "--onnx", "-o", str(tmp_path)], capsys)


def test_groups_that_depend_on_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped = run_from(GROUPED, tmp_path)
    monkeypatch.setattr(trained, "load_task", lambda folder: grouped)
    message = refusal([str(tmp_path), "--onnx"], capsys)
    assert "level 'bytes' has group.type given" in message and "group: {type: fixed, stride: N}" in message
    assert not (tmp_path / "model.onnx").exists()


def test_libraries_that_are_missing(
    images: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trained, "load_task", lambda folder: images)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = refusal([str(images.folder), "--onnx", "-o", str(tmp_path / "a.onnx")], capsys)
    assert "export to ONNX needs onnx, which is not installed: pip install 'hrt-mm[export]'" in message


def test_folders_without_a_run_or_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run folder" in refusal([str(tmp_path / "nothing"), "--onnx"], capsys)
    (tmp_path / "config.yaml").write_text(IMAGES)
    assert "no checkpoint" in refusal([str(tmp_path), "--onnx"], capsys)
