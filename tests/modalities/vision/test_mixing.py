"""Mixup and CutMix of batches, with the shares of classes as targets; and weights of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm import ConfigError, load_config, train
from hrt_mm.core.errors import BadSample
from hrt_mm.tasks import Batch, Classification, ClassificationConfig
from hrt_mm.train.build import build_data
from hrt_mm.train.meters import Meters
from hrt_mm.train.rehearsal import rehearse
from hrt_modalities.vision.augment import Cutmix, Mixup, mixing_of
from hrt_modalities.vision.memory import DigitsConfig
from tests.tasks.conftest import Rows, hierarchy
from tests.tasks.every import CASES
from tests.train.test_monitor import KillAt, Killed

TINY = [
    "train.steps=4", "train.batch_size=16", "train.eval_every=2", "train.save_every=2", "train.num_threads=1",
    "train.precision=fp32", "train.tensorboard=false", "train.test=false", "data.use=0.1", "optim.warmup_steps=1",
]  # fmt: skip
BOTH = 'data.augment=[{"type": "flip"}, {"type": "mixup", "alpha": 0.4}, {"type": "cutmix"}]'


@pytest.mark.parametrize(
    "augmentation", [Mixup(type="mixup", alpha=5.0), Cutmix(type="cutmix")], ids=lambda one: one.type
)
def test_classes_are_shared_as_pixels_are(augmentation: Any) -> None:
    mixing = mixing_of([augmentation])
    assert mixing is not None
    torch.manual_seed(3)
    # Each image is of one shade, which tells its share.
    images = [torch.full((1, 16, 16), shade, dtype=torch.uint8) for shade in (0, 255, 0, 255)]
    mixed, shares = mixing(images, ["a", "b", "c", "d"], torch.tensor([0, 1, 0, 1]), 3)
    assert shares.shape == (4, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    for image, share in zip(mixed, shares, strict=True):
        assert float(image.mean()) == pytest.approx(float(share[1]), abs=1e-3)
        assert 0 < share[1] < 1
    kinds = {len(image.unique()) for image in mixed}
    assert kinds == ({1} if augmentation.type == "mixup" else {2})


def test_what_is_not_mixed_has_one_class() -> None:
    mixing = mixing_of([Mixup(type="mixup", p=0.0)])
    assert mixing is not None
    images = [torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]
    mixed, shares = mixing(images, ["a", "b"], torch.tensor([2, 0]), 3)
    assert all(torch.equal(one, other) for one, other in zip(mixed, images, strict=True))
    assert shares.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert mixing_of([]) is None


def test_images_of_different_sizes_cannot_be_mixed() -> None:
    mixing = mixing_of([Cutmix(type="cutmix")])
    assert mixing is not None
    with pytest.raises(BadSample, match=r"b: has the shape \(1, 4, 5\) and a \(1, 4, 4\); cutmix needs images of one"):
        mixing([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)], ["a", "b"], torch.tensor([0, 1]), 2)


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("vision/digits_masked", []),
        ("vision/digits", ["task.balance=1.0"]),
        ("vision/digits", ["task={type: regression}"]),
    ],
)
def test_a_task_that_cannot_learn_shares_is_refused(config: str, overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data.augment: mixup and cutmix mix the classes of samples, which task"):
        rehearse(load_config(config, [*TINY, *overrides, BOTH]))


def test_only_training_batches_are_mixed() -> None:
    config = load_config("vision/digits", [*TINY, BOTH])
    data = build_data(config, ["train", "val"])
    assert isinstance(config.data, DigitsConfig)
    assert data.training_maker(config).collator.mixing is not None
    assert data.maker(config, "val").collator.mixing is None


def test_a_resumed_run_with_workers_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    options = [*TINY, BOTH, "task.class_weights=balanced"]
    train(load_config("vision/digits", [*options, f"run.dir={tmp_path / 'whole'}"]))
    config = load_config("vision/digits", [*options, f"run.dir={tmp_path / 'killed'}", "train.workers=1"])
    with pytest.raises(Killed):
        train(config, callbacks=[KillAt(3)])
    train(config, resume=True)
    for part in ("model", "optimizer"):
        file = f"checkpoints/step-00000004/{part}.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= line["val/accuracy"] <= 1


def scored(target: torch.Tensor, **options: Any) -> tuple[Classification, torch.Tensor, torch.Tensor]:
    """A task, its logits of some samples, and its loss."""
    case = CASES["classification"]
    torch.manual_seed(0)
    task = ClassificationConfig(type="classification", **options).build(hierarchy(2), Rows(), ("x", "y", "z"))
    batch = case.batch(range(len(target)))
    batch = Batch(batch.towers, target, batch.names)
    logits = task.logits(batch)
    task.train()
    output = task(batch)
    meters = Meters()
    meters.add(output, batch)
    assert meters.sums()["cross_entropy"][0] == pytest.approx(
        float(output.loss.detach() * output.stats["loss"][1]), rel=1e-5
    )
    return task, logits, output.loss


def test_the_loss_of_shares_and_of_weighted_classes() -> None:
    weights = {"x": 0.5, "y": 2.0, "z": 1.0}
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0], [0.5, 0.1, 0.4]])
    _, logits, loss = scored(shares)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, shares))
    target = torch.tensor([1, -1, 0, 2])
    task, logits, loss = scored(target, class_weights=weights)
    expected = torch.nn.functional.cross_entropy(logits, target, torch.tensor([0.5, 2.0, 1.0]), ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    _, logits, loss = scored(shares, class_weights=weights)
    weight = torch.tensor([0.5, 2.0, 1.0])
    total = -(shares * weight * logits.log_softmax(-1)).sum()
    torch.testing.assert_close(loss, total / (shares * weight).sum())
    # Evaluation does not weigh.
    batch = CASES["classification"].batch([0, 1, 2])
    task.eval()
    assert batch.target is not None
    plain = torch.nn.functional.cross_entropy(task.logits(batch), batch.target)
    torch.testing.assert_close(task(batch).loss, plain)


def test_weights_of_classes_are_one_for_each() -> None:
    with pytest.raises(ConfigError, match=r"task.class_weights has no value for 'z'; the classes are x, y, z"):
        scored(torch.tensor([0]), class_weights={"x": 1.0, "y": 1.0})
    with pytest.raises(ValidationError, match="balance and class_weights both make up"):
        ClassificationConfig(type="classification", balance=1.0, class_weights="balanced")
