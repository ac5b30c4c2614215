"""Images as sequences of pixels."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_modalities.vision import Vision, VisionConfig
from hrt_modalities.vision.sequence import PixelTokenizer


def config(**sequence: object) -> VisionConfig:
    return VisionConfig.model_validate({"type": "vision", "channels": 1, "patch": 1, "sequence": sequence})


def test_pixels_follow_each_other_row_by_row() -> None:
    tokenizer = config().build()
    images = [torch.arange(6, dtype=torch.uint8).view(1, 2, 3), torch.tensor([[[0.0, 1.0]]])]
    tokens = tokenizer(images)
    assert tokens.x.tolist() == [0, 1, 2, 3, 4, 5, 0, 255]
    assert tokens.coords_TC[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [tokenizer.size(image.shape) for image in images] == [6, 2]


def test_colours_become_grey_and_sizes_change() -> None:
    resized = VisionConfig.model_validate(
        {"type": "vision", "channels": 1, "patch": 1, "size": [2, 2], "sequence": {}}
    ).build()
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert resized([white]).x.tolist() == [255] * 4
    assert resized.size(white.shape) == 4


def test_a_permutation_is_fixed_by_its_seed_and_can_be_undone() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    first, again, other = (config(permute=seed).build() for seed in (3, 3, 4))
    assert first([image]).x.tolist() == again([image]).x.tolist() != other([image]).x.tolist()
    assert sorted(first([image]).x.tolist()) == list(range(16))
    for tokenizer in (first, config().build()):
        assert isinstance(tokenizer, PixelTokenizer)
        (restored,) = tokenizer.restore(tokenizer([image]))
        assert torch.equal((restored * 255).round().to(torch.uint8), image)


def test_the_embedding_looks_back_alone() -> None:
    tokenizer = config(recent=3).build()
    embedding = tokenizer.embedding(8)
    image = torch.randint(0, 256, (1, 1, 9), dtype=torch.uint8)
    changed = image.clone()
    changed[..., 5] += 1
    with torch.no_grad():
        rows = (embedding(tokenizer([image])).x != embedding(tokenizer([changed])).x).any(1)
    assert rows.nonzero()[:, 0].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channels": 3}, "set channels: 1"),
        ({"patch": 4}, "set patch: 1"),
        ({"mean": 0.5}, "drop mean"),
        ({"stem": {"type": "conv"}}, "drop stem"),
    ],
)
def test_keys_that_would_have_no_effect_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VisionConfig.model_validate({"type": "vision", "channels": 1, "patch": 1, "sequence": {}} | keys)


def test_sequences_have_no_feature_maps() -> None:
    with pytest.raises(ConfigError, match="no feature maps"):
        Vision.dense_model(torch.nn.Identity(), config().build())
