from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from hrt_mm.config import load_config
from hrt_mm.config.layers import find_config
from hrt_mm.train.build import build_dataset
from hrt_modalities.vision.augment import Augmentation, Transform, chain

ADAPTER: TypeAdapter[tuple[Augmentation, ...]] = TypeAdapter(tuple[Augmentation, ...])
ALL: list[dict[str, Any]] = [
    {"type": "crop", "padding": 2},
    {"type": "crop", "size": 6},
    {"type": "resized_crop", "size": (6, 10), "scale": (0.2, 0.9)},
    {"type": "resized_crop", "scale": (0.2, 0.9)},
    {"type": "affine", "degrees": 20.0, "translate": (0.2, 0.2), "scale": (0.8, 1.2), "shear": 10.0},
    {"type": "flip", "p": 1.0},
    {"type": "flip", "p": 1.0, "axis": "vertical"},
    {"type": "jitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    {"type": "erasing", "p": 1.0},
    {"type": "randaugment", "ops": 2, "magnitude": 9},
]


def build(*options: dict[str, Any]) -> Transform:
    transform = chain(ADAPTER.validate_python(options))
    assert transform is not None
    return transform


def image(channels: int = 3, height: int = 8, width: int = 12) -> Tensor:
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("options", ALL, ids=lambda options: options["type"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_follow_the_seed_and_stay_bytes(options: dict[str, Any], channels: int) -> None:
    transform = build(options)
    value = image(channels)
    untouched = value.clone()
    torch.manual_seed(3)
    first = transform(value)
    torch.manual_seed(3)
    again = pickle.loads(pickle.dumps(transform))(value)
    assert torch.equal(first, again)
    assert first.dtype == torch.uint8
    assert len(first) == channels
    assert torch.equal(value, untouched), "the image itself was changed"


@pytest.mark.parametrize("options", ALL, ids=lambda options: options["type"])
def test_transforms_change_the_image(options: dict[str, Any]) -> None:
    transform = build(options)
    value = image()
    result = [transform(value) for _ in range(10)]
    assert any(one.shape != value.shape or not torch.equal(one, value) for one in result)


@pytest.mark.parametrize("options", ALL, ids=lambda options: options["type"])
def test_transforms_take_sixteen_bit_images(options: dict[str, Any]) -> None:
    result = build(options)(torch.rand(1, 8, 12))
    assert result.dtype == torch.float32
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1.001


def test_crop_keeps_the_size_of_each_image() -> None:
    transform = build({"type": "crop", "padding": 3})
    for size in [(8, 12), (5, 5), (1, 1), (8, 12)]:
        assert transform(image(3, *size)).shape == (3, *size)


def test_crop_moves_the_image_within_its_padding() -> None:
    transform = build({"type": "crop", "padding": 1, "fill": 0.1})
    value = torch.zeros(1, 3, 3, dtype=torch.uint8)
    value[0, 1, 1] = 255
    positions = {tuple((transform(value)[0] == 255).nonzero()[0].tolist()) for _ in range(300)}
    assert positions == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize(
    "options", [{"type": "crop", "padding": 8, "size": 1}, {"type": "erasing", "p": 1.0, "scale": (0.3, 0.5)}]
)
def test_the_fill_is_a_shade_of_bytes_and_of_floats(options: dict[str, Any]) -> None:
    transform = build(options | {"fill": 1.0})
    assert max(int(transform(torch.zeros(1, 8, 8, dtype=torch.uint8)).max()) for _ in range(20)) == 255
    assert max(float(transform(torch.zeros(1, 8, 8)).max()) for _ in range(20)) == 1


def test_transforms_run_in_order() -> None:
    value = image(3, 8, 8)
    flips = build({"type": "flip", "p": 1.0}, {"type": "flip", "p": 1.0, "axis": "vertical"})
    assert torch.equal(flips(value), value.flip(1, 2))


def test_no_transforms() -> None:
    assert chain(()) is None


def test_crops_follow_the_size_of_the_modality(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (number, 0, 0)).save(path)
    layers = [f"data.root={tmp_path / 'pictures'}", "data.augment=[{type: resized_crop}]"]
    shapes = {}
    for size in ("24", "[16, 32]", "null"):
        config = load_config(
            find_config("vision/image_folder"), [*layers, f"modality.size={size}", "modality.fit=stretch"]
        )
        shapes[size] = tuple(build_dataset(config, "train")[0].value.shape)
    assert (shapes["24"], shapes["[16, 32]"]) == ((3, 24, 24), (3, 16, 32))
    # Where the modality has no size either, the part keeps its own.
    assert 0.08 * 3000 * 0.8 < shapes["null"][1] * shapes["null"][2] <= 3000
    config = load_config(find_config("vision/image_folder"), [*layers, "data.augment=[{type: resized_crop, size: 20}]"])
    assert build_dataset(config, "train")[0].value.shape == (3, 20, 20)
