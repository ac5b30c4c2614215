from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from hrt_mm.core.errors import BadSample
from hrt_mm.core.grids import Sizes, nested_coords
from hrt_mm.data.registry import modalities
from hrt_modalities.vision import Vision, VisionConfig, VisionTokenizer

BLOCKS: tuple[Sizes, ...] = ((2, 2), (4, 4))
SIZES = [(8, 8), (1, 1), (5, 13), (8, 8), (1, 17), (9, 1), (16, 12)]


def tokenizer(blocks: tuple[Sizes, ...] = BLOCKS, **options: object) -> VisionTokenizer:
    return VisionTokenizer(VisionConfig.model_validate({"type": "vision", **options}), blocks)


def images(channels: int = 3, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for size in sizes]


def test_the_modality_is_installed() -> None:
    assert modalities()["vision"] is Vision


@pytest.mark.parametrize("patch", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_restore_gives_the_images_back(patch: int, channels: int) -> None:
    values = images(channels)
    vision = tokenizer(patch=patch, channels=channels, mean=0.3, std=0.4)
    for value, back in zip(values, vision.restore(vision(values)), strict=True):
        _, height, width = value.shape
        assert back.shape == (channels, -(-height // patch) * patch, -(-width // patch) * patch)
        assert torch.allclose(back[:, :height, :width] * 255, value.float(), atol=1e-3)


def test_a_token_is_a_patch_at_its_coordinates() -> None:
    (value,) = images(3, [(8, 12)])
    tokens = tokenizer(patch=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))([value])
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    for x, (row, column) in zip(tokens.x, tokens.coords_TC.long().tolist(), strict=True):
        patch = value[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.allclose(x.view(3, 2, 2), (patch / 255 - mean) / std, atol=1e-5)


def test_tokens_lie_in_hierarchical_order() -> None:
    tokens = tokenizer(patch=2)(images())
    assert tokens.grids == tuple((-(-height // 2), -(-width // 2)) for height, width in SIZES)
    for coords, grid in zip(tokens.spans.split(tokens.coords_TC), tokens.grids, strict=True):
        assert torch.equal(coords, nested_coords(grid, BLOCKS))


def test_a_packed_batch_equals_its_images_one_by_one() -> None:
    values = images()
    vision = tokenizer(patch=3)
    packed = vision(values)
    alone = [vision([value]) for value in values]
    assert torch.equal(packed.x, torch.cat([tokens.x for tokens in alone]))
    assert torch.equal(packed.coords_TC, torch.cat([tokens.coords_TC for tokens in alone]))
    assert packed.spans.lengths.tolist() == [tokens.spans.total for tokens in alone]


def test_forms_of_an_image_mix() -> None:
    (value,) = images(3, [(6, 6)])
    forms = [value, value.float() / 255, Image.fromarray(value.permute(1, 2, 0).numpy()), (value / 255).double()]
    first, *others = tokenizer(patch=2)(forms).split()
    for other in others:
        assert torch.allclose(first, other, atol=1e-6)


def test_channels_are_brought_to_one_number() -> None:
    grey, rgb = torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8), images(3, [(4, 4)])[0]
    assert tokenizer(patch=2, channels=3)([grey, rgb]).x.shape == (8, 12)
    assert tokenizer(patch=2, channels=1)([grey, rgb]).x.shape == (8, 4)


def test_sixteen_bit_images_mix_with_bytes() -> None:
    wide = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    high = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    first, second = tokenizer(patch=4, channels=1)([wide, high]).split()
    assert torch.allclose(first, second)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_images_are_resized(fit: str) -> None:
    vision = tokenizer(patch=4, size=(8, 12), fit=fit)
    tokens = vision(images())
    assert set(tokens.grids or ()) == {(2, 3)}
    assert tokens.spans.uniform == 6


def test_crop_keeps_the_middle() -> None:
    value = torch.zeros(1, 4, 12, dtype=torch.uint8)
    value[:, :, 4:8] = 255
    vision = tokenizer(patch=2, size=4, fit="crop", channels=1)
    assert torch.allclose(vision.restore(vision([value]))[0], torch.ones(1, 4, 4))


def test_crop_of_a_thin_strip_stays_small() -> None:
    assert tokenizer(patch=4, size=224, fit="crop", channels=1)([torch.zeros(1, 1, 20_000)]).spans.total == 56 * 56


@pytest.mark.parametrize(("pad", "expected"), [("edge", 200 / 255), ("zero", 0.25)])
def test_the_border_is_padded_as_told(pad: str, expected: float) -> None:
    vision = tokenizer(patch=4, channels=1, pad=pad, mean=0.25)
    (back,) = vision.restore(vision([torch.full((1, 5, 3), 200, dtype=torch.uint8)]))
    assert torch.allclose(back[:, :5, :3], torch.tensor(200 / 255))
    assert torch.allclose(back[:, 5:], torch.tensor(expected))
    assert torch.allclose(back[:, :, 3:], torch.tensor(expected))


def test_patches_lie_where_they_were_in_the_picture() -> None:
    picture = torch.zeros(3, 30, 50)
    patches = VisionConfig(type="vision", patch=8).build_grid()
    assert patches.box(picture, (1, 2, 2, 4)) == (16, 8, 32, 16)
    # What fills the last row and column of patches is no part of the picture.
    assert patches.box(picture, (3, 6, 4, 7)) == (48, 24, 50, 30)
    stretched = VisionConfig(type="vision", patch=8, size=(16, 32)).build_grid()
    assert stretched.box(picture, (0, 1, 1, 4)) == (12.5, 0, 50, 15)
    cropped = VisionConfig(type="vision", patch=8, size=16, fit="crop").build_grid()
    assert cropped.box(picture, (0, 1, 2, 2)) == (25, 0, 40, 30)


def test_sizes_are_known_in_advance() -> None:
    values = images()
    for vision in (tokenizer(patch=3), tokenizer(patch=4, size=(9, 8))):
        assert [vision.size(value.shape) for value in values] == vision(values).spans.lengths.tolist()


def test_a_value_that_is_not_finite_is_named() -> None:
    bad = torch.rand(3, 4, 4)
    bad[1, 2, 3] = float("nan")
    with pytest.raises(BadSample, match=r"^image 1 of the batch: 1 of 48 values are NaN or infinite$"):
        tokenizer()([torch.rand(3, 4, 4), bad])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "Input should be 1 or 3"),
        ({"patch": 0}, "greater than 0"),
        ({"size": (4, 0)}, "greater than 0"),
        ({"std": 0.0}, "greater than 0"),
        ({"mean": (0.1, 0.2)}, "mean has 2 numbers, but channels is 3; give 1 or as many"),
        ({"channels": 1, "std": (0.1, 0.2, 0.3)}, "std has 3 numbers, but channels is 1"),
        ({"fit": "crop"}, "fit: crop has no effect without size"),
        ({"mean": float("nan")}, "finite number"),
        ({"stem": {"type": "fourier"}}, "'linear', 'conv', 'timm'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tokenizer(**options)
