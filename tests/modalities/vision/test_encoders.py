"""Pretrained image encoders against the forward passes of their own libraries, on small models with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.grids import nested_order
from hrt_mm.core.initial_weights import weights_replaced
from hrt_modalities.vision import VisionConfig, VisionTokenizer
from hrt_modalities.vision.encoders import BackboneEmbedding

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

BLOCKS = ((2, 2),)
Theirs = Callable[[Tensor], Tensor]
"""Images to the patches (N, L, D) or the map (N, D, h, w) of the library itself."""


def save_timm(folder: Path, name: str, **options: Any) -> Any:
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    config = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    timm.models.save_for_hf(model, folder, model_config=config, model_args=options)
    file = folder / "config.json"
    saved = json.loads(file.read_text())
    saved["pretrained_cfg"].update(config)
    file.write_text(json.dumps(saved))
    return model


def timm_vit(folder: Path) -> Theirs:
    options = {"embed_dim": 16, "depth": 3, "num_heads": 2, "img_size": 32, "patch_size": 8}
    model = save_timm(folder, "vit_tiny_patch16_224", **options)
    return lambda images: model.forward_features(images)[:, 1:]


def timm_registers(folder: Path) -> Theirs:
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
    model = save_timm(folder, "vit_small_patch14_reg4_dinov2", **options)
    return lambda images: model.forward_features(images)[:, 5:]


def timm_cnn(folder: Path) -> Theirs:
    model = save_timm(folder, "resnet10t")
    return lambda images: model.forward_intermediates(images, indices=[2], intermediates_only=True)[0]


VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16
}  # fmt: skip


def save_transformers(folder: Path, model: Any) -> Any:
    model.eval().save_pretrained(folder)
    processor = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "image_processor_type": "ViTImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def vit(folder: Path) -> Theirs:
    model = save_transformers(folder, transformers.ViTModel(transformers.ViTConfig(**VISION)))
    return lambda images: model(images).last_hidden_state[:, 1:]


def dinov2_registers(folder: Path) -> Theirs:
    config = transformers.Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)
    model = save_transformers(folder, transformers.Dinov2WithRegistersModel(config))
    return lambda images: model(images).last_hidden_state[:, 4:]


def siglip(folder: Path) -> Theirs:
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    model = save_transformers(folder, transformers.SiglipModel(config))
    return lambda images: model.vision_model(images).last_hidden_state


def clip(folder: Path) -> Theirs:
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT)
    model = save_transformers(folder, transformers.CLIPModel(config))
    return lambda images: model.vision_model(images).last_hidden_state[:, 1:]


def resnet(folder: Path) -> Theirs:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = save_transformers(folder, transformers.ResNetModel(config))
    return lambda images: model(images).last_hidden_state


def open_clip_vit(folder: Path) -> Theirs:
    model = save_open_clip(folder)
    model.visual.output_tokens = True
    return lambda images: model.visual(images)[1]


def save_open_clip(folder: Path) -> Any:
    """Saves a small CLIP of open_clip with random weights."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    model = open_clip.CLIP(**config).eval()
    open_clip.model.set_model_preprocess_cfg(model, {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})
    folder.mkdir(exist_ok=True)
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


MODELS: dict[str, tuple[str, Callable[[Path], Theirs]]] = {
    "timm-vit": ("timm", timm_vit),
    "timm-registers": ("timm", timm_registers),
    "timm-cnn": ("timm", timm_cnn),
    "vit": ("transformers", vit),
    "dinov2-registers": ("transformers", dinov2_registers),
    "siglip": ("transformers", siglip),
    "clip": ("transformers", clip),
    "resnet": ("transformers", resnet),
    "open_clip": ("open_clip", open_clip_vit),
}
ANY_SIZE = [name for name in MODELS if name != "open_clip"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str, Theirs]]:
    saved: dict[str, tuple[Path, str, Theirs]] = {}

    def get(name: str) -> tuple[Path, str, Theirs]:
        if name not in saved:
            folder = tmp_path_factory.mktemp(name)
            library, save = MODELS[name]
            torch.manual_seed(0)
            saved[name] = folder, library, save(folder)
        return saved[name]

    return get


Models = Callable[[str], tuple[Path, str, Theirs]]


def vision(folder: Path, library: str, **options: Any) -> VisionTokenizer:
    stem = {"type": library, "name": str(folder), **options.pop("stem", {})}
    return VisionTokenizer(VisionConfig.model_validate({"type": "vision", "patch": 8, "stem": stem, **options}), BLOCKS)


def identity(embed: torch.nn.Module, width: int) -> BackboneEmbedding:
    """The embedding with a projection that changes nothing."""
    assert isinstance(embed, BackboneEmbedding)
    embed.project.weight.data = torch.eye(width)
    embed.project.bias.data.zero_()
    return embed.eval()


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_the_library(name: str, models: Models) -> None:
    folder, library, theirs = models(name)
    size = None if name in ANY_SIZE else 32
    tokenizer = vision(folder, library, size=size)
    assert tokenizer.config.statistics == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in tokenizer.config.statistics)
    with torch.no_grad():
        expected = theirs((images / 255 - mean) / std)
        maps = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected
        embed = identity(tokenizer.embedding(maps.shape[2]), maps.shape[2])
        ours = embed(tokenizer(list(images))).split()
    for own, map_ in zip(ours, maps, strict=True):
        assert torch.allclose(own, map_[nested_order((4, 4), BLOCKS)], atol=1e-5)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_images_of_mixed_sizes(name: str, models: Models) -> None:
    folder, library, _ = models(name)
    tokenizer = vision(folder, library)
    embed = tokenizer.embedding(16).eval()
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((32, 32), (40, 24), (7, 64))]
    with torch.no_grad():
        packed = embed(tokenizer(images))
        assert packed.x.shape == (16 + 15 + 8, 16)
        for image, item in zip(images, packed.split(), strict=True):
            assert torch.allclose(item, embed(tokenizer([image])).x, atol=1e-5)


def test_position_embeddings_are_interpolated_to_a_size(models: Models) -> None:
    folder, library, _ = models("open_clip")
    tokenizer = vision(folder, library, size=(48, 32))
    assert tokenizer.embedding(16)(tokenizer([torch.zeros(3, 9, 9)])).x.shape == (24, 16)
    with pytest.raises(ConfigError, match="takes images of one size only; set size"):
        vision(folder, library).embedding(16)


@pytest.mark.parametrize("name", ["timm-vit", "vit", "siglip", "open_clip"])
def test_the_first_layers(name: str, models: Models) -> None:
    folder, library, _ = models(name)
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)]
    values = {}
    for layers in (1, 3, None):
        tokenizer = vision(folder, library, size=32, stem={"layers": layers})
        with torch.no_grad():
            values[layers] = identity(tokenizer.embedding(16), 16)(tokenizer(images)).x
    assert torch.equal(values[3], values[None]) and not torch.allclose(values[1], values[None])
    if name == "vit":
        config = transformers.ViTConfig(**VISION | {"num_hidden_layers": 1})
        cut = transformers.ViTModel.from_pretrained(folder, config=config, add_pooling_layer=False).eval()
        tokenizer = vision(folder, library, size=32)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in tokenizer.config.statistics)
        expected = cut((images[0][None] / 255 - mean) / std).last_hidden_state[0, 1:]
        assert torch.allclose(values[1], expected[nested_order((4, 4), BLOCKS)], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "targets"), [("timm-vit", "qkv"), ("vit", "q_proj"), ("siglip", "q_proj"), ("open_clip", "attn")]
)
def test_adapters(name: str, targets: str, models: Models) -> None:
    pytest.importorskip("peft")
    folder, library, _ = models(name)
    tokens = vision(folder, library, size=32)([torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)])
    plain = identity(vision(folder, library, size=32).embedding(16), 16)
    adapted = identity(
        vision(folder, library, size=32, stem={"lora": {"r": 2, "targets": [targets]}}).embedding(16), 16
    )
    assert torch.allclose(adapted(tokens).x, plain(tokens).x, atol=1e-5)
    adapted.train()(tokens).x.square().sum().backward()
    trained = {name for name, value in adapted.backbone.named_parameters() if value.grad is not None}
    assert trained and all(f".{targets}." in name and "lora_" in name for name in trained)


def test_adapters_of_an_encoder_without_linear_layers(models: Models) -> None:
    folder, library, _ = models("resnet")
    with pytest.raises(ConfigError, match="has no linear layers to add adapters to; drop lora"):
        vision(folder, library, stem={"lora": {}}).embedding(8)


def test_a_patch_of_another_size(models: Models) -> None:
    for name in ("vit", "timm-vit", "open_clip"):
        folder, library, _ = models(name)
        with pytest.raises(ConfigError, match=r"map of 4x4 cells for images of 32x32, and not of 2x2; set patch to 8"):
            vision(folder, library, patch=16, size=32).embedding(8)


def test_an_encoder_of_text(tmp_path: Path) -> None:
    transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="this model reads text, and the stem embeds images"):
        vision(tmp_path, "transformers", mean=0.5, std=0.5).embedding(8)


def test_a_model_without_statistics(tmp_path: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"set modality.mean and std"):
        vision(tmp_path, "transformers")
    tokenizer = vision(tmp_path, "transformers", mean=0.4, std=0.3)
    assert tokenizer.embedding(8)(tokenizer([torch.zeros(3, 32, 32)])).x.shape == (16, 8)


@pytest.mark.parametrize("name", MODELS)
def test_a_configuration_is_checked_without_weights(name: str, models: Models, tmp_path: Path) -> None:
    folder, library, _ = models(name)
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with torch.device("meta"), weights_replaced():
        stem: dict[str, Any] = {"freeze": True} if name in ("timm-cnn", "resnet") else {"lora": {}}
        embed = vision(tmp_path, library, size=32, stem=stem).embedding(8)
        # A CNN of timm has maps of several reductions.
        with pytest.raises(ConfigError, match=r"set patch to (2, 4, )?8"):
            vision(tmp_path, library, size=32, patch=1).embedding(8)
    assert {parameter.device.type for parameter in embed.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["timm-vit", "open_clip"])
def test_weights_cut_short(name: str, models: Models, tmp_path: Path) -> None:
    folder, library, _ = models(name)
    for file in folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[:-64] if file.suffix == ".safetensors" else data)
    (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"stem.name .* cut short or damaged"):
        vision(tmp_path, library, size=32).embedding(8)
    tokenizer = vision(tmp_path, library, size=32, stem={"pretrained": False})
    assert tokenizer.embedding(8)(tokenizer([torch.zeros(3, 32, 32)])).x.shape == (16, 8)


def test_the_first_stages_of_a_cnn_stay_as_they_are(models: Models) -> None:
    folder, library, _ = models("timm-cnn")
    embed = vision(folder, library, stem={"freeze": 3}).embedding(8)
    # conv1, bn1 and layer1.
    trained = {
        name.split(".")[3] for name, value in embed.named_parameters() if value.requires_grad and "model" in name
    }
    assert trained == {"layer2"}
