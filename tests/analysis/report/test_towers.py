"""Reports of runs over several modalities: a part for each tower, and what they come to together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hrt_mm.analysis.report import diagnose
from hrt_mm.analysis.report.subject import Subject
from hrt_mm.inference.trained import load_task
from hrt_mm.train.distributed import ProcessGroup
from tests.analysis.report.conftest import trained
from tests.analysis.report.pictures import assert_drawn, pictures

OF_TOWERS = {f"{tower}-{name}" for tower in ("image", "text") for name in ("attention", "groups", "recovery")}

TOWERS = """\
towers:
  image:
    modality: {{type: vision, channels: 1, patch: 4}}
    model:
      levels:
        - {{name: cells, dim: 16, depth: 1, heads: 2, window: 2, group: {{type: fixed, stride: 2}}, pool: mean}}
        - {{name: picture, dim: 16, depth: 1, heads: 2}}
      cross_scale: {{up: true}}
  text:
    modality: {{type: text}}
    model:
      levels:
        - name: bytes
          dim: 16
          depth: 1
          heads: 2
          window: 8
          window_type: sliding
          group: {{type: given, boundary: words, max: 16}}
          pool: mean
        - {{name: words, dim: 16, depth: 1, heads: 2}}
task: {task}
data:
  type: joint_manifest
  file: {file}
  sources: {{image: {{type: image, column: path}}, text: {{type: text, column: title}}}}
train: {{steps: 4, batch_size: 8, eval_every: 2, log_every: 2, tensorboard: false, num_threads: 1, precision: fp32}}
"""


def run_of(folder: Path, task: str, lacking: str = "") -> Path:
    """A short run over pictures of noise, some missing and those of a split all, and what is said of them."""
    noise = torch.Generator().manual_seed(0)
    rows = []
    for index, split in enumerate(["train"] * 24 + ["val"] * 4 + ["test"] * 8):
        pixels = torch.randint(0, 256, (8, 16), generator=noise, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
        title = " ".join(("some", "grey", "picture")[: 1 + index % 3])
        path = "" if index % 9 == 1 or split == lacking else f"{index}.png"
        rows.append({"path": path, "title": title, "label": ("odd", "even")[index % 2], "split": split})
    file = folder / "rows.tsv"
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return trained(folder, TOWERS.format(file=file, task=task))


@pytest.fixture(scope="module")
def fused_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("fused"), "{type: fused_classification, fusion: {type: gated, dim: 16}}")


@pytest.fixture(scope="module")
def contrastive_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("contrastive"), "{type: contrastive, dim: 16}")


def test_report_of_a_classifier_of_several_modalities(fused_run: Path) -> None:
    report = diagnose(fused_run)
    drawn = pictures(report.folder)
    assert drawn >= OF_TOWERS | {"confusion", "curves", "mistakes", "image-gates"}
    assert "text-gates" not in drawn
    assert_drawn(report.folder)
    assert report.summary[0].startswith("test accuracy ")
    assert any(line.startswith("image: pooling cells to picture keeps ") for line in report.summary)
    assert any(line.startswith("text: pooling bytes to words keeps ") for line in report.summary)
    text = (report.folder / "report.md").read_text()
    assert "| levels | image.cells, image.picture, text.bytes, text.words |" in text
    assert text.index("## Confusion\n") < text.index("## Groups of image\n") < text.index("## Groups of text\n")


def test_report_of_a_run_that_compares_modalities(contrastive_run: Path) -> None:
    report = diagnose(contrastive_run)
    assert pictures(report.folder) >= OF_TOWERS | {"curves", "retrieval-image_to_text", "retrieval-text_to_image"}
    assert not pictures(report.folder) & {"confusion", "mistakes"}
    assert_drawn(report.folder)
    with (report.folder / "retrieval.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    metrics = json.loads((contrastive_run / "summary.json").read_text())["metrics"]
    for direction in ("image_to_text", "text_to_image"):
        ranks = [int(row["rank"]) for row in rows if row["direction"] == direction]
        assert len(ranks) == metrics[f"test/{direction}/queries"]
        assert ranks == sorted(ranks, reverse=True)
        assert sum(rank == 1 for rank in ranks) / len(ranks) == pytest.approx(metrics[f"test/{direction}/R@1"])
        assert sum(1 / rank for rank in ranks) / len(ranks) == pytest.approx(metrics[f"test/{direction}/MRR"])
    # A wrong answer is first exactly where the best right one is not.
    assert all((row["first"] == row["right"]) == (row["rank"] == "1") for row in rows)


def test_a_modality_that_the_split_lacks_is_said_to_be_missing(tmp_path: Path) -> None:
    task = "{type: fused_classification, fusion: {type: gated, dim: 16}}"
    report = diagnose(run_of(tmp_path, task, lacking="test"))
    assert "image: no sample of the test split has it, so there is nothing to report" in report.summary
    assert {name.partition("-")[0] for name in pictures(report.folder)} == {"confusion", "curves", "text"}
    assert_drawn(report.folder)


def test_a_tower_is_shown_by_the_samples_that_have_its_modality(fused_run: Path) -> None:
    whole = Subject.of(load_task(fused_run), ProcessGroup(torch.device("cpu")))
    image, text = whole.towers
    assert whole.tower == "image" and (image.tower, text.tower) == ("image", "text")
    assert image.encoder is not text.encoder
    count = len(whole.dataset)
    lacking = [index for index in range(count) if image.sample(index) is None]
    assert lacking == [0]
    assert len(image.views(count)) == count - 1 and len(text.views(count)) == count
    assert sum(map(len, image.packs(count))) == count - 1 and sum(map(len, text.packs(count))) == count
    sample, view = text.views(1)[0]
    assert isinstance(sample.value, str) and view.tokens.spans.total == len(sample.value)
