"""The vision modality under the core's tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.tasks import Batch, Classification, ClassificationConfig, Masked, MaskedConfig
from hrt_mm.tasks.masked import hide, mask_units
from hrt_modalities.vision import VisionConfig, VisionTokenizer
from hrt_modalities.vision.memory import DigitsConfig

STEMS: list[dict[str, Any]] = [
    {"type": "linear"},
    {"type": "conv", "depth": 2},
    {"type": "timm", "name": "resnet18", "pretrained": False},
]
IDS = ["linear", "conv", "timm"]
SIZES = [(16, 16), (9, 21), (1, 1), (1, 30), (16, 16)]


def model(pool: str = "mean", **options: Any) -> HierarchyConfig:
    levels = [
        {"name": "patches", "dim": 16, "depth": 1, "heads": 2, "window": 4, "group": {"type": "fixed", "stride": 2}},
        {"name": "regions", "dim": 24, "depth": 1, "heads": 2, "group": {"type": "fixed", "stride": 2}},
        {"name": "image", "dim": 32, "depth": 1, "heads": 2},
    ]
    return HierarchyConfig.model_validate({"levels": [level | {"pool": pool} for level in levels], **options})


def vision(config: HierarchyConfig, **options: Any) -> VisionTokenizer:
    result = VisionConfig.model_validate({"type": "vision", "patch": 2, **options})
    return result.build_grid(config)


def images(sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]


def unzero(task: nn.Module) -> None:
    for parameter in task.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("stem", STEMS, ids=IDS)
@pytest.mark.parametrize("pool", ["mean", "conv", "attention", "haar"])
def test_mixed_sizes_are_classified_as_one_by_one(stem: dict[str, Any], pool: str) -> None:
    config = model(pool, cross_scale={"up": True, "down": True})
    tokenizer = vision(config, stem=stem)
    task = ClassificationConfig(type="classification").build(config, tokenizer, ("a", "b", "c")).eval()
    unzero(task)
    values = images()
    seen: list[Tensor] = []
    task.head.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    task(Batch.of(tokenizer(values), torch.zeros(len(values), dtype=torch.int64)))
    for value in values:
        task(Batch.of(tokenizer([value]), torch.zeros(1, dtype=torch.int64)))
    assert torch.allclose(seen[0], torch.cat(seen[1:]), atol=1e-4)


@pytest.mark.parametrize("stem", STEMS, ids=IDS)
def test_hidden_pixels_do_not_leak(stem: dict[str, Any]) -> None:
    config = model("conv", top_down=True, cross_scale={"down": True})
    tokenizer = vision(config, stem=stem)
    task = MaskedConfig(type="masked").build(config, tokenizer, None).eval()
    unzero(task)
    tokens = tokenizer(images())
    hidden = hide(mask_units(task.encoder.hierarchy, tokens, 1), tokens.spans, 0.5)
    noise = torch.randn_like(tokens.x) * 100
    before = task.reconstruct(tokens, hidden).predictions
    after = task.reconstruct(tokens.with_x(torch.where(hidden[:, None], noise, tokens.x)), hidden).predictions
    shown = task.reconstruct(tokens.with_x(torch.where(hidden[:, None], tokens.x, noise)), hidden).predictions
    assert before is not None
    assert after is not None
    assert shown is not None
    assert torch.equal(before, after)
    assert not torch.allclose(before, shown)


def test_mask_units_are_squares_of_pixels() -> None:
    config = model(top_down=True)
    tokenizer = vision(config)
    task = MaskedConfig(type="masked", unit="image").build(config, tokenizer, None)
    tokens = tokenizer(images([(16, 16), (10, 10)]))
    units = mask_units(task.encoder.hierarchy, tokens, 2)
    assert units.lengths.tolist() == [16] * 4 + [16, 4, 4, 1]
    squares = torch.unique_consecutive(tokens.coords_TC // 4, dim=0)
    assert len(squares) == len(units)


def train(task: Classification | Masked, tokenizer: VisionTokenizer, steps: int, rate: float) -> list[float]:
    dataset = DigitsConfig(type="digits").build("train")
    config = ClassificationConfig(type="classification")
    optimizer = torch.optim.AdamW(task.parameters(), rate)
    losses = []
    for _ in range(steps):
        samples = [dataset[int(index)] for index in torch.randint(0, 400, (32,))]
        tokens = tokenizer([sample.value for sample in samples])
        output = task(Batch.of(tokens, config.targets(samples, tokens, dataset.classes)))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    return losses


def test_digits_are_learned() -> None:
    config = model("conv")
    tokenizer = vision(config, channels=1, patch=1, stem={"type": "conv"})
    task = ClassificationConfig(type="classification").build(config, tokenizer, tuple("0123456789"))
    losses = train(task, tokenizer, 60, 5e-3)
    assert losses[0] > 2
    assert sum(losses[-5:]) / 5 < 0.7


def test_digits_are_reconstructed_and_the_encoder_handed_on() -> None:
    config = model("conv", top_down=True)
    tokenizer = vision(config, channels=1, patch=2)
    masked = MaskedConfig(type="masked", ratio=0.4, normalize=False).build(config, tokenizer, None)
    losses = train(masked, tokenizer, 60, 5e-3)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    up = model("conv")
    fine = ClassificationConfig(type="classification").build(up, tokenizer, tuple("0123456789"))
    expected = {name for name in fine.state_dict() if name.startswith("encoder.")}
    result = {name: value for name, value in masked.state_dict().items() if name in expected}
    assert result.keys() == expected
    fine.load_state_dict(result, strict=False)
    assert sum(train(fine, tokenizer, 30, 5e-3)[-5:]) / 5 < 2
