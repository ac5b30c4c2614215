"""Semantic segmentation, from images with masks to predicted masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm import ConfigError, UserError, load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.core.errors import BadSample
from hrt_mm.data.sample import Sample
from hrt_mm.inference import MaskPrediction
from hrt_mm.tasks import SemanticSegmentation, SemanticSegmentationConfig
from hrt_mm.tasks.semantic import intersection_over_union
from hrt_mm.train.rehearsal import rehearse
from tests.tasks.conftest import Ids, hierarchy
from tests.tasks.every import CASES

CONFIG = """
modality: {type: vision, patch: 4}
model:
  top_down: true
  levels:
    - {name: patches, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}}
    - {name: image, dim: 16, heads: 2, depth: 1}
task: {type: semantic_segmentation, class_weights: balanced}
data: {type: shapes, size: 16, samples: 12, held_out: 4, augment: [{type: flip}, {type: affine, degrees: 20}]}
optim: {warmup_steps: 1, lr: 0.01}
train: {steps: 6, batch_size: 4, eval_every: 3, save_every: 2, tensorboard: false, num_threads: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "config.yaml").write_text(CONFIG)
    return train(load_config(folder / "config.yaml", [f"run.dir={folder / 'run'}"]))


def test_a_resumed_run_equals_the_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-00000006")
    (again / "summary.json").unlink()
    train(load_config(run.parent / "config.yaml", [f"run.dir={again}"]), resume=True)
    for name in ("model", "optimizer"):
        file = f"checkpoints/step-00000006/{name}.safetensors"
        assert (again / file).read_bytes() == (run / file).read_bytes()


def test_metrics_are_those_of_the_predicted_masks(run: Path) -> None:
    loaded = load_run(run)
    test = loaded.config.data.build("test")
    samples = [test[index] for index in range(len(test))]
    predictions = loaded.predict([sample.value for sample in samples])
    counts = torch.zeros(3, 6, dtype=torch.int64)
    for sample, prediction in zip(samples, predictions, strict=True):
        assert isinstance(prediction, MaskPrediction)
        assert prediction.mask.shape == sample.label.shape
        assert sum(prediction.row()["predicted"].values()) == pytest.approx(1)
        for index in range(6):
            guess, true = prediction.mask == index, sample.label == index
            counts[:, index] += torch.stack([(guess & true).sum(), guess.sum(), true.sum()])
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    present = counts[2] > 0
    assert metrics["test/miou"] == pytest.approx(float(intersection_over_union(counts)[present].mean()))
    assert metrics["test/pixel_accuracy"] == pytest.approx(float(counts[0].sum() / counts[2].sum()))


def test_the_loss_is_weighted_and_ignores_pixels_without_a_class() -> None:
    case = CASES["semantic segmentation"]
    task, batch = case.build().eval(), case.batch([0, 4])
    assert isinstance(task, SemanticSegmentation)
    assert batch.target is not None
    assert (batch.target == -1).any()
    with torch.no_grad():
        logits = task.logits(batch).flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(
            logits, batch.target.flatten(), torch.tensor([1.0, 0.5, 3.0]), ignore_index=-1
        )
        torch.testing.assert_close(task(batch).parts["cross_entropy"], expected)


def test_balanced_weights_are_those_of_the_training_masks(run: Path) -> None:
    loaded = load_run(run)
    train_set = loaded.config.data.plain("train")
    counts = torch.stack([torch.bincount(train_set[index].label.flatten(), minlength=6) for index in range(12)]).sum(0)
    assert isinstance(loaded.task, SemanticSegmentation)
    torch.testing.assert_close(loaded.task.weight_K, counts.sum() / (6 * counts.float()))


def test_a_report_draws_masks_and_a_table_lists_predictions(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["diagnose", str(run), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "masks.png").stat().st_size > 1000
    assert "IoU" in (tmp_path / "report" / "report.md").read_text()
    assert main(["eval", str(run), "--predictions", str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0].keys() == {"sample", "true", "predicted"}
    assert sum(rows[0]["true"].values()) == pytest.approx(1)


def write(folder: Path, name: str, image: tuple[int, int], mask: Any = 0) -> None:
    """An image of rows and columns with a mask: of one value, or of another size."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (*image, 3), np.uint8)).save(folder / "images" / f"{name}.jpg")
    pixels = np.full(image, mask, np.uint8) if isinstance(mask, int) else np.zeros(mask, np.uint8)
    Image.fromarray(pixels).save(folder / "masks" / f"{name}.png")


def of_folder(folder: Path, **changes: str) -> Any:
    (folder / "masks.yaml").write_text(
        CONFIG.replace("class_weights: balanced", "class_weights: null").split("data:")[0]
        + f"data: {{type: image_masks, root: {folder / 'data'}, classes: [no, yes], val: 0.2, test: 0.2}}\n"
        + "optim: {warmup_steps: 1}\ntrain: {steps: 1, batch_size: 2, num_threads: 1}\n"
    )
    return load_config(folder / "masks.yaml", [f"{key}={value}" for key, value in changes.items()])


def test_folders_of_images_and_masks_of_mixed_sizes(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / "data", f"a{number}", (9 + number, 14), (255, 0, 1)[number % 3])
    config = of_folder(tmp_path)
    assert "6 train, 2 val, 2 test" in rehearse(config)
    dataset = config.data.build("train")
    sample = dataset[0]
    assert sample.label.shape == sample.value.shape[1:]
    assert dataset.classes == ("no", "yes")
    assert {entry.name for entry in (tmp_path / "data").iterdir()} == {"images", "masks"}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((5, 14), r"a3.jpg: its mask masks/a3.png has 14x5 pixels, and the image 14x9; a mask must have the size"),
        (7, r"its mask has the value 7, and the 2 classes are 0 to 1; task.ignore is 255"),
    ],
)
def test_a_mask_of_another_size_or_value_is_a_named_error(tmp_path: Path, size: Any, message: str) -> None:
    for number in range(10):
        write(tmp_path / "data", f"a{number}", (9, 14), size)
    with pytest.raises((UserError, BadSample), match=message.replace("a3", r"a\d")):
        rehearse(of_folder(tmp_path))


def test_broken_folders_are_named_errors(tmp_path: Path) -> None:
    write(tmp_path / "data", "a", (9, 14))
    (tmp_path / "data" / "masks" / "a.png").rename(tmp_path / "data" / "masks" / "b.png")
    with pytest.raises(ConfigError, match=r"images/a.jpg has no mask masks/a.png"):
        of_folder(tmp_path).data.build("train")
    write(tmp_path / "data", "a", (9, 14))
    Image.new("RGB", (14, 9)).save(tmp_path / "data" / "masks" / "a.png")
    with pytest.raises(BadSample, match=r"is a mask in mode RGB; save it grey or with a palette"):
        of_folder(tmp_path).data.model_copy(update={"val": 0.0, "test": 0.0}).build("train")[0]
    Image.new("L", (14, 9)).save(tmp_path / "data" / "masks" / "a.jpg")
    with pytest.raises(ConfigError, match=r"the mask masks/a.jpg loses values in its format; save it as PNG"):
        of_folder(tmp_path).data.build("train")
    shutil.rmtree(tmp_path / "data" / "images")
    (tmp_path / "data" / "masks" / "a.jpg").unlink()
    with pytest.raises(ConfigError, match=r"has no images in images/"):
        of_folder(tmp_path).data.build("train")


def test_labels_that_are_no_masks_and_other_modalities_are_errors() -> None:
    config = SemanticSegmentationConfig(type="semantic_segmentation", ignore=None)
    for label in ("x", torch.zeros(2, 2), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(BadSample, match="its label must be a mask"):
            config.mask_of(Sample(None, label, "s"), ("a", "b"))
    with pytest.raises(BadSample, match="has the value 255"):
        config.mask_of(Sample(None, torch.full((2, 2), 255), "s"), ("a", "b"))
    with pytest.raises(ConfigError, match=r"labels pixels, and Ids makes no tokens of them; use modality.type: vision"):
        config.build(hierarchy(2, top_down=True), Ids(), ("a", "b"))
    case = CASES["semantic segmentation"]
    with pytest.raises(ConfigError, match=r"top_down"):
        case.config.build_towers({"": hierarchy(2)}, {"": case.tokenizer()}, ("x", "y", "z"))
