"""timm's contract, by the logic of timm's own tests, and what its users build on it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

import hrt_mm
from hrt_mm.config import load_config
from hrt_mm.core.block import Block
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.levels import CrossScale, FixedGroups, HierarchyConfig, LearnedGroups, Level
from hrt_mm.train import train
from hrt_modalities.vision.stems import ConvPatchEmbedding, ImageLinearStem
from hrt_modalities.vision.timm_models import HierarchicalVisionTransformer, from_encoder

NAMES = ("hrt_tiny", "hrt_small", "hrt_base")


def levels(*, top_down: bool = False, **paths: bool) -> HierarchyConfig:
    sizes = ((16, 4), (24, 4), (32, None))
    each = [
        Level(
            name=f"level{index}",
            dim=dim,
            depth=2 if index == 1 else 1,
            heads=2,
            window=window,
            group=FixedGroups(stride=2) if index < 2 else None,
            pool="conv" if index < 2 else "mean",
        )
        for index, (dim, window) in enumerate(sizes)
    ]
    return HierarchyConfig(levels=tuple(each), cross_scale=CrossScale(**paths), top_down=top_down)


def small(**options: Any) -> HierarchicalVisionTransformer:
    config = options.pop("model", None) or levels(up=True, down=True)
    model = HierarchicalVisionTransformer(config, **{"num_classes": 5} | options)
    # Branches start at zero; with random weights each path has an effect.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_model_has_the_interface_of_its_default_configuration(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    config = model.default_cfg
    assert config["num_classes"] == model.num_classes == 1000
    weights = model.state_dict()
    assert f"{config['classifier']}.weight" in weights and f"{config['first_conv']}.weight" in weights
    assert model.num_features == model.head_hidden_size == weights["head.fc.weight"].shape[1]
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]


def test_the_default_input_gives_the_default_map() -> None:
    model: Any = timm.create_model("hrt_tiny", num_classes=3).eval()
    config = model.default_cfg
    with torch.inference_mode():
        features = model.forward_features(torch.randn(1, *config["input_size"]))
        assert features.shape == (1, model.num_features, *config["pool_size"])
        model.reset_classifier(0)
        assert model.forward_head(features).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert model.forward_head(features).shape == features.shape
        model.reset_classifier(7, "avg")
        assert model.forward_head(features).shape == (1, 7)
        assert model.forward_head(features, pre_logits=True).shape == (1, model.num_features)
        assert model.get_classifier() is model.head.fc and model.num_classes == 7


def test_gradients_reach_every_parameter() -> None:
    model: Any = timm.create_model("hrt_tiny", num_classes=42)
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 42)
    logits.mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("in_chans", [1, 4])
def test_features_only_gives_maps_of_the_promised_channels_and_reductions(in_chans: int) -> None:
    model: Any = timm.create_model("hrt_tiny", features_only=True, in_chans=in_chans, out_indices=(1, 3)).eval()
    assert model.feature_info.channels() == [128, 384] and model.feature_info.reduction() == [8, 32]
    with torch.inference_mode():
        maps = model(torch.randn(2, in_chans, 64, 96))
    expected = [(2, channels, 64 // step, 96 // step) for channels, step in ((128, 8), (384, 32))]
    assert [tuple(each.shape) for each in maps] == expected


def test_maps_equal_those_of_the_packed_hierarchy() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 41, 30)
    last, maps = model.forward_intermediates(images)
    padded = nn.functional.pad(images, (0, 2, 0, 3), "replicate")
    embedding = model.embedding
    assert isinstance(embedding, ConvPatchEmbedding)
    layout = model._layout(images)
    cells = embedding.dense(padded).flatten(1, 2)[:, layout.order].flatten(0, 1)
    one_by_one = [
        model.hierarchy(hrt_mm.Tokens(rows, hrt_mm.Spans.from_lengths([len(rows)]), coords, (layout.grid,)))
        for rows, coords in zip(cells.chunk(2), layout.coords_TC.chunk(2), strict=True)
    ]
    for index, batch in enumerate(maps):
        for image, pyramid in zip(batch, one_by_one, strict=True):
            torch.testing.assert_close(image, pyramid.maps(index)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last, model.forward_features(images))
    assert torch.equal(model(images), model.forward_head(last))


def test_a_batch_equals_its_images_one_by_one() -> None:
    model = small().eval()
    images = torch.randn(3, 3, 22, 37)
    single = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), single, atol=1e-5, rtol=1e-4)


def test_options_of_intermediates() -> None:
    model = small().eval()
    images = torch.randn(1, 3, 32, 32)
    last, maps = model.forward_intermediates(images, indices=2)
    assert len(maps) == 2 and torch.equal(maps[-1], last)
    flat = model.forward_intermediates(images, [0], output_fmt="NLC", intermediates_only=True)[0]
    first = model.forward_intermediates(images, [0], intermediates_only=True)[0]
    assert torch.equal(flat, first.flatten(2).transpose(1, 2))
    both = model.forward_intermediates(images, [-1], output_dict=True)
    assert torch.equal(both["image_features"], last) and torch.equal(both["image_intermediates"][0], last)
    assert model.forward_intermediates(images, [0], output_dict=True, intermediates_only=True).keys() == {
        "image_intermediates"
    }
    with pytest.raises(ConfigError, match="output_fmt 'NHWC'; one of NCHW, NLC"):
        model.forward_intermediates(images, output_fmt="NHWC")  # type: ignore[arg-type]


@pytest.mark.parametrize("paths", [{"up": True}, {"up": True, "down": True}, {"top_down": True}])
@pytest.mark.parametrize("indices", [[0], [0, 1], [2]])
def test_stopping_early_and_pruning_change_no_map(paths: dict[str, bool], indices: list[int]) -> None:
    model = small(model=levels(**paths)).eval()
    images = torch.randn(2, 3, 40, 27)
    whole = model.forward_intermediates(images, indices, intermediates_only=True)
    stages: list[int] = []
    handles = [
        stage.register_forward_hook(lambda *_, index=index: stages.append(index))
        for index, stage in enumerate(model.hierarchy.stages)
    ]
    early = model.forward_intermediates(images, indices, stop_early=True, intermediates_only=True)
    for handle in handles:
        handle.remove()
    independent = not model.hierarchy.reads_coarser
    assert max(stages) == (max(indices) if independent else 2)
    before = sum(parameter.numel() for parameter in model.parameters())
    assert model.prune_intermediate_layers(indices) == indices
    assert isinstance(model.get_classifier(), nn.Identity)
    assert len(model.hierarchy.stages) == (max(indices) + 1 if independent else 3)
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    pruned = model.forward_intermediates(images, indices, intermediates_only=True)
    for expected, stopped, after in zip(whole, early, pruned, strict=True):
        torch.testing.assert_close(stopped, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)


def test_checkpointing_gives_the_same_gradients() -> None:
    model = small(drop_path_rate=0.0).train()
    images = torch.randn(2, 3, 24, 24)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(model(images).square().sum(), list(model.parameters())))

    plain = gradients()
    model.set_grad_checkpointing()
    assert all(module.checkpointed for module in model.modules() if isinstance(module, Block))
    for ours, theirs in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    model.set_grad_checkpointing(False)
    assert not any(module.checkpointed for module in model.modules() if isinstance(module, Block))


def test_learning_rates_rise_with_the_depth() -> None:
    model = small(model=levels(up=True, top_down=True))
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {
        name: group["lr_scale"] for group in groups for name, value in model.named_parameters()
        if any(value is parameter for parameter in group["params"])
    }  # fmt: skip
    order = [
        "embedding.project.weight",
        "hierarchy.stages.0.encoder.0.mlp.up.weight",
        "hierarchy.transitions.0.merge",
        "hierarchy.stages.1.encoder.0.mlp.up.weight",
        "hierarchy.stages.1.encoder.1.mlp.up.weight",
        "hierarchy.transitions.1.merge",
        "hierarchy.stages.2.encoder.0.mlp.up.weight",
        "hierarchy.up.0",
        "head.fc.weight",
    ]
    rates = [next(scale for name, scale in scales.items() if name.startswith(prefix)) for prefix in order]
    # The pooling of a level belongs to its last block.
    assert rates[2] == rates[1] and rates[5] == rates[4]
    assert rates == sorted(rates) and len(set(rates)) == 7 and rates[-1] == 1.0
    assert len(scales) == len(list(model.parameters()))
    by_stage = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert (
        by_stage["hierarchy.stages.1.encoder.0.mlp.up.weight"] == by_stage["hierarchy.stages.1.encoder.1.mlp.up.weight"]
    )


def test_evaluation_in_inference_mode_may_come_before_training() -> None:
    model = small()
    images = torch.randn(2, 3, 20, 20)
    with torch.inference_mode():
        model.eval()(images)
    model.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_copies_and_pickles_compute_the_same() -> None:
    model = small().eval()
    images = torch.randn(1, 3, 17, 20)
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_other_images_are_refused_by_their_shape_and_type(images: Tensor) -> None:
    with pytest.raises(UserError, match=r"floats of shape \(B, 3, H, W\), got"):
        small()(images)


def test_empty_batches_are_refused() -> None:
    with pytest.raises(UserError, match="empty; give at least one pixel"):
        small()(torch.zeros(0, 3, 8, 8))


def test_hierarchies_without_maps_or_with_losses_are_refused() -> None:
    fine = Level(name="fine", dim=16, heads=2, group=LearnedGroups(type="learned", target=4, max=8))
    learned = HierarchyConfig(levels=(fine, Level(name="coarse", dim=16, heads=2)))
    with pytest.raises(ConfigError, match="level 'fine' has groups of type learned; feature maps need fixed"):
        small(model=learned)
    with pytest.raises(ConfigError, match="alignment and reconstruction are losses"):
        small(model=levels().model_copy(update={"alignment": 0.1}))


def test_published_weights_are_refused_as_there_are_none() -> None:
    with pytest.raises(UserError, match="no weights are published for 'hrt_tiny'"):
        hrt_mm.create_model("hrt_tiny", pretrained=True)


def test_unknown_models_are_refused_with_a_suggestion() -> None:
    assert hrt_mm.list_models() == sorted(NAMES)
    with pytest.raises(ConfigError, match="no model 'hrt_tinny'; did you mean hrt_tiny"):
        hrt_mm.create_model("hrt_tinny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    limits = ["train.steps=2", "train.batch_size=8", "train.eval_every=null", "train.test=false"]
    train(load_config("vision/digits", [*limits, f"run.dir={folder}", "train.device=cpu"]))
    return folder


def test_a_trained_run_becomes_a_backbone(run: Path) -> None:
    trained = hrt_mm.load_run(run)
    (tokenizer,) = trained.tokenizers.values()
    images = torch.rand(3, 1, 8, 8)
    expected = trained.task.encoder(tokenizer(list(images)))  # type: ignore[operator]
    model: Any = hrt_mm.create_model(run, num_classes=4).eval()
    config = model.default_cfg
    assert isinstance(config, dict)
    assert config["mean"] == (0.3,) and config["std"] == (0.38,) and config["input_size"] == (1, 224, 224)
    normalized = (images - config["mean"][0]) / config["std"][0]
    _, maps = model.forward_intermediates(normalized)
    for index, batch in enumerate(maps):
        for image, reference in zip(batch, expected.maps(index), strict=True):
            torch.testing.assert_close(image, reference, atol=1e-5, rtol=1e-4)
    assert model(normalized).shape == (3, 4)
    backbone: Any = hrt_mm.create_model(run, features_only=True, out_indices=(0, 2)).eval()
    assert [tuple(each.shape[1:]) for each in backbone(normalized)] == [(64, 8, 8), (128, 2, 2)]
    assert backbone.feature_info.channels() == [64, 128]


def test_weights_of_a_run_initialize_only_the_same_model(run: Path) -> None:
    with pytest.raises(UserError, match=r"has another encoder than hrt_tiny: .* differ"):
        hrt_mm.create_model("hrt_tiny", pretrained=run)
    with pytest.raises(UserError, match="has its weights already"):
        hrt_mm.create_model(run, pretrained=True)
    with pytest.raises(ConfigError, match="out_indices has no effect without features_only"):
        hrt_mm.create_model(run, out_indices=(0,))


def test_linear_stems_have_the_interface_as_well() -> None:
    model = small(stem=ImageLinearStem(), patch=8).eval()
    assert model(torch.randn(2, 3, 33, 40)).shape == (2, 5)
    assert [info["reduction"] for info in model.feature_info] == [8, 16, 32]


def test_a_timm_stem_is_refused() -> None:
    from hrt_modalities.vision import VisionConfig

    stem = {"type": "timm", "name": "resnet18", "pretrained": False}
    tokenizer = VisionConfig.model_validate({"type": "vision", "patch": 8, "stem": stem}).build_grid(levels())
    encoder = nn.Module()
    encoder.hierarchy = hrt_mm.Hierarchy(levels(), axes=2)
    with pytest.raises(ConfigError, match="the stem is timm"):
        from_encoder(encoder, tokenizer)
