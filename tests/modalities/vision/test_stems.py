from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.grids import Sizes, nested_order
from hrt_mm.core.tokens import Tokens
from hrt_modalities.vision import VisionConfig, VisionTokenizer
from hrt_modalities.vision.encoders import BackboneEmbedding, TimmStem
from hrt_modalities.vision.stems import ConvPatchEmbedding

BLOCKS: tuple[Sizes, ...] = ((2, 2), (4, 4))
STEMS = [
    {"type": "linear"},
    {"type": "conv"},
    {"type": "conv", "width": 12, "depth": 2},
    {"type": "timm", "name": "resnet18", "pretrained": False},
]
IDS = ["linear", "conv", "conv-deep", "timm"]


def tokenizer(**options: object) -> VisionTokenizer:
    return VisionTokenizer(VisionConfig.model_validate({"type": "vision", **options}), BLOCKS)


def mixed(vision: VisionTokenizer) -> tuple[list[torch.Tensor], Tokens]:
    sizes = [(32, 32), (40, 33), (1, 1), (32, 32), (7, 64)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    return images, vision(images)


@pytest.mark.parametrize("stem", STEMS, ids=IDS)
def test_a_packed_batch_equals_its_images_one_by_one(stem: dict[str, object]) -> None:
    vision = tokenizer(patch=8, stem=stem)
    embed = vision.embedding(16).eval()
    images, tokens = mixed(vision)
    packed = embed(tokens)
    assert packed.x.shape == (tokens.spans.total, 16)
    for image, item in zip(images, packed.split(), strict=True):
        assert torch.allclose(item, embed(vision([image])).x, atol=1e-5)


@pytest.mark.parametrize("stem", STEMS, ids=IDS)
def test_gradients_reach_every_parameter_and_only_an_images_own_pixels(stem: dict[str, object]) -> None:
    vision = tokenizer(patch=8, stem=stem)
    embed = vision.embedding(16).eval()
    _, tokens = mixed(vision)
    x = tokens.x.requires_grad_()
    own = embed(tokens.with_x(x)).split()
    (gradient,) = torch.autograd.grad(own[1].sum(), x, retain_graph=True)
    touched = [bool(part.any()) for part in tokens.spans.split(gradient)]
    assert touched == [False, True, False, False, False]
    torch.cat(own).square().sum().backward()
    assert all(parameter.grad is not None for parameter in embed.parameters())


@pytest.mark.parametrize(("patch", "depth"), [(1, 1), (2, 2), (3, 1), (4, 1), (6, 2), (7, 1)])
def test_the_conv_stem_is_a_dense_convolution_of_each_image(patch: int, depth: int) -> None:
    vision = tokenizer(patch=patch, stem={"type": "conv", "depth": depth})
    embed = vision.embedding(16)
    assert isinstance(embed, ConvPatchEmbedding)
    image = torch.randint(0, 256, (3, 5 * patch, 6 * patch), dtype=torch.uint8)
    dense = embed.dense((image / 255 - 0.5)[None] / 0.5)[0]
    assert dense.shape == (5, 6, 16)
    nested = dense.flatten(0, 1)[nested_order((5, 6), BLOCKS)]
    assert torch.allclose(embed(vision([image])).x, nested, atol=1e-5)


def test_the_conv_stem_looks_past_a_patch() -> None:
    vision = tokenizer(patch=4, stem={"type": "conv"})
    embed = vision.embedding(16)
    tokens = vision([torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)])
    x = tokens.x.requires_grad_()
    (gradient,) = torch.autograd.grad(embed(tokens.with_x(x)).x[5].sum(), x)
    assert 1 < int(gradient.any(1).sum()) <= 9


def test_the_conv_stem_ends_at_the_level_width() -> None:
    embed = tokenizer(patch=4, stem={"type": "conv"}).embedding(32)
    assert [layer.out_channels for layer in embed.modules() if isinstance(layer, nn.Conv2d)] == [16, 32]


@pytest.mark.parametrize("stem", STEMS, ids=IDS)
def test_half_precision(stem: dict[str, object]) -> None:
    vision = tokenizer(patch=8, stem=stem)
    embed = vision.embedding(16).eval()
    _, tokens = mixed(vision)
    with torch.autocast("cpu", torch.bfloat16):
        half = embed(tokens).x.detach()
    assert half.dtype == torch.bfloat16
    exact = embed(tokens).x.detach()
    assert float((half.float() - exact).norm() / exact.norm()) < 0.05


def test_a_frozen_backbone_stays_as_it_is() -> None:
    vision = tokenizer(patch=8, stem={"type": "timm", "name": "resnet18", "pretrained": False, "freeze": True})
    embed = vision.embedding(16).train()
    assert isinstance(embed, BackboneEmbedding)
    before = {name: value.clone() for name, value in embed.backbone.state_dict().items()}
    _, tokens = mixed(vision)
    embed(tokens).x.sum().backward()
    assert [name for name, parameter in embed.named_parameters() if parameter.grad is not None] == [
        "project.weight",
        "project.bias",
    ]
    for name, value in embed.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("patch", [2, 4, 16])
def test_the_patch_chooses_the_feature_map(patch: int) -> None:
    vision = tokenizer(patch=patch, stem={"type": "timm", "name": "resnet18", "pretrained": False})
    tokens = vision([torch.zeros(3, 32, 48, dtype=torch.uint8)])
    assert vision.embedding(8).eval()(tokens).x.shape == (32 * 48 // patch**2, 8)


def test_a_model_of_one_size() -> None:
    stem = {"type": "timm", "name": "swin_tiny_patch4_window7_224", "pretrained": False}
    vision = tokenizer(patch=32, size=64, stem=stem)
    tokens = vision([torch.zeros(3, 20, 30, dtype=torch.uint8)])
    assert vision.embedding(8).eval()(tokens).x.shape == (4, 8)
    with pytest.raises(ConfigError, match="takes images of one size only; set size"):
        tokenizer(patch=32, stem=stem).embedding(8)


def test_former_keys_of_a_timm_stem() -> None:
    with pytest.warns(FutureWarning, match="frozen is deprecated; use freeze"), pytest.warns(match="use name"):
        config = VisionConfig.model_validate(
            {"type": "vision", "stem": {"type": "timm", "backbone": "resnet18", "frozen": True, "pretrained": False}}
        )
    assert isinstance(config.stem, TimmStem)
    assert (config.stem.name, config.stem.freeze) == ("resnet18", True)


def test_pixels_are_normalised_as_the_backbone_was_trained() -> None:
    vision = tokenizer(patch=4, stem={"type": "timm", "name": "resnet18", "pretrained": False})
    assert vision.config.statistics[0] == pytest.approx((0.485, 0.456, 0.406))
    grey = tokenizer(patch=4, channels=1, std=0.5, stem={"type": "timm", "name": "resnet18", "pretrained": False})
    assert grey.config.statistics[0] == pytest.approx((0.449,), abs=1e-3)
    assert grey.config.statistics[1] == (0.5,)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(ValidationError, match=r"timm has no model 'resnet81'; did you mean .*resnet18"):
        tokenizer(stem={"type": "timm", "name": "resnet81"})


def test_a_patch_that_no_feature_map_has() -> None:
    with pytest.raises(ConfigError, match=r"'resnet18' has no feature map at patch 3; set patch to 2, 4, 8, 16, 32"):
        tokenizer(patch=3, stem={"type": "timm", "name": "resnet18", "pretrained": False}).embedding(8)


def test_tokens_that_are_no_images() -> None:
    vision = tokenizer(patch=4, stem={"type": "conv"})
    with pytest.raises(UserError, match="needs tokens of images"):
        vision.embedding(8)(Tokens.pack([torch.zeros(4, 48)]))
