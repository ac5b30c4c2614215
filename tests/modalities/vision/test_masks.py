"""Masks go through the tokenizer as their images do, and shapes have exact masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_modalities.vision.augment import Affine, Flip, Jitter, ResizedCrop, paired_chain
from hrt_modalities.vision.shapes import CLASSES, ShapesConfig
from hrt_modalities.vision.tokenizer import VisionConfig

MODEL = HierarchyConfig.model_validate(
    {"levels": [{"name": "a", "dim": 8, "heads": 1, "group": {"type": "fixed", "stride": 2}},
                {"name": "b", "dim": 8, "heads": 1}]}
)  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"size": 16}, {"size": (8, 20), "fit": "crop"}], ids=str)
def test_labels_lie_on_the_pixels_of_their_patches(options: dict[str, Any]) -> None:
    tokenizer = VisionConfig(type="vision", patch=4, channels=1, mean=0.0, std=1.0, **options).build_grid(MODEL)
    shapes = [(13, 10), (8, 20), (16, 16)]
    # Values of a mask that are those of its image, in blocks so large that resizing keeps their middles.
    masks = [torch.arange(h)[:, None] // 8 * 10 + torch.arange(w) // 10 for h, w in shapes]
    images = [mask[None].float() / 255 for mask in masks]
    tokens = tokenizer(images)
    labels = tokenizer.label_tokens(masks, -1)
    assert labels.shape == (tokens.spans.total, 16) == (len(tokens.x), tokenizer.labels_per_token)
    if not options:
        known = labels >= 0
        torch.testing.assert_close((tokens.x * 255).round().long()[known], labels[known])
        assert int((labels < 0).sum()) == 16 * 12 - 13 * 10
    maps = tokenizer.label_maps(tokens, labels)
    for image, mask, label_map in zip(images, masks, maps, strict=True):
        restored = tokenizer.labels_of(image, label_map, -1)
        assert restored.shape == mask.shape
        seen = restored >= 0
        assert seen.all() or options.get("fit") == "crop"
        assert float((restored == mask)[seen].float().mean()) > 0.85
        if not options:
            assert torch.equal(restored, mask)


def test_shapes_are_the_same_every_time_and_differ_between_splits() -> None:
    config = ShapesConfig(type="shapes", size=48, samples=40, noise=0.0)
    train, again, val = (config.build(split) for split in ("train", "train", "val"))
    assert torch.equal(train[3].value, again[3].value)
    assert torch.equal(train[3].label, train.label_of(3))
    assert not torch.equal(train[3].value, val[3].value)
    seen = torch.stack([torch.bincount(train[index].label.flatten(), minlength=len(CLASSES)) for index in range(40)])
    assert (seen.sum(0) > 0).all()
    # Without noise colours change slowly but where a mask does.
    image, mask = train[3].value.int(), train[3].label
    steps = (image[:, 1:] - image[:, :-1]).abs().amax(0)
    assert steps[mask[1:] == mask[:-1]].max() < 20


@pytest.mark.parametrize(
    "augmentation",
    [
        Flip(type="flip", p=1.0),
        Affine(type="affine", degrees=40, translate=(0.2, 0.2)),
        ResizedCrop(type="resized_crop", size=(20, 30)),
    ],
    ids=lambda one: one.type,
)
def test_an_image_and_its_mask_are_changed_alike(augmentation: Any) -> None:
    torch.manual_seed(0)
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[8:20, 4:24] = 1
    image = (mask * 200)[None].expand(3, -1, -1)
    transform = paired_chain([augmentation, Jitter(type="jitter", brightness=0.1)], 255)
    assert transform is not None
    changed, labels = transform(image, mask)
    assert type(changed) is type(labels) is torch.Tensor
    assert changed.shape[1:] == labels.shape
    assert not torch.equal(labels, mask)
    known = labels != 255
    assert float(((changed[0] > 90) == (labels == 1))[known].float().mean()) > 0.9
    assert augmentation.type != "affine" or not known.all()


def test_a_crop_of_masks_needs_a_size() -> None:
    with pytest.raises(ConfigError, match=r"resized_crop of images with masks needs a size, or modality.size"):
        paired_chain([ResizedCrop(type="resized_crop")], None)
