from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.per_step import training_step
from hrt_modalities.common.encoder_layers import keep_layers, layer_list, parameter_groups
from hrt_modalities.common.model_sources import check_modality, open_clip_name, transformers_config, transformers_model
from hrt_modalities.common.pretrained import PretrainedStem, StemEncoder

transformers = pytest.importorskip("transformers")


def stem(**options: object) -> PretrainedStem:
    return PretrainedStem.model_validate({"name": "any", **options})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.dropout(self.v_proj(self.q_proj(x).relu()))
        return x + mixed


class Stack(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed


def trained(encoder: StemEncoder) -> set[str]:
    names = [name for name, value in encoder.encoder.named_parameters() if value.requires_grad]
    return {name[: len("blocks.0")] if name.startswith("blocks") else name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (False, {"embed", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm"}),
        (True, set()),
        (1, {"blocks.1", "blocks.2", "blocks.3", "norm"}),
        (4, {"norm"}),
    ],
)
def test_what_freeze_leaves_to_train(freeze: bool | int, expected: set[str]) -> None:
    encoder = stem(freeze=freeze).wrap(Stack()).train()
    assert trained(encoder) == expected
    # Dropout is off in frozen blocks alone.
    training = [encoder.encoder.get_submodule(f"blocks.{index}").training for index in range(4)]
    assert training == [f"blocks.{index}" in expected for index in range(4)]


def test_a_frozen_encoder_records_no_graph_and_a_half_frozen_one_does() -> None:
    x = torch.randn(2, 3)
    assert not stem(freeze=True).wrap(Stack())(x).requires_grad
    assert stem(freeze=2).wrap(Stack())(x).requires_grad


def test_layers_unfreeze_at_their_steps() -> None:
    encoder = stem(freeze=True, unfreeze=[{"step": 1, "layers": 1}, {"step": 3}]).wrap(Stack()).train()
    # The optimizer is made of what will train at any time.
    assert trained(encoder) == {"embed", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm"}
    top, everything = {"blocks.3", "norm"}, trained(encoder)
    for expected in (set(), top, top, everything, everything):
        with training_step(encoder):
            assert trained(encoder) == expected
            assert encoder(torch.randn(2, 3)).requires_grad == (expected != set())
    assert int(encoder.steps) == 5
    resumed = stem(freeze=True, unfreeze=[{"step": 1, "layers": 1}, {"step": 3}]).wrap(Stack()).train()
    resumed.load_state_dict(encoder.state_dict() | {"steps": torch.tensor(2)})
    with training_step(resumed):
        assert trained(resumed) == {"blocks.3", "norm"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze": [{"step": 1}]}, "set freeze: true or drop unfreeze"),
        ({"freeze": True, "unfreeze": [{"step": 5, "layers": 1}, {"step": 5}]}, "the steps of unfreeze must rise"),
        (
            {"freeze": True, "unfreeze": [{"step": 1, "layers": 2}, {"step": 2, "layers": 1}]},
            "the layers of unfreeze must rise, got 2, 1",
        ),
        ({"freeze": True, "unfreeze": [{"step": 1}, {"step": 2}]}, "only the last item of unfreeze"),
        ({"freeze": True, "unfreeze": [{"step": 1}], "lora": {}}, "unfreeze and lora exclude each other"),
        ({"freeze": 2, "lora": {}}, "drop freeze: 2"),
        ({"freeze": True, "lr_scale": 0.1}, "lr_scale has no effect on a frozen encoder"),
        ({"layers": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stem(**options)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"stem.layers 9: the encoder has 4; set 1 to 4"):
        stem(layers=9).wrap(Stack())
    with pytest.raises(ConfigError, match=r"stem.freeze 9: the encoder has 4 layers"):
        stem(freeze=9).wrap(Stack())
    with pytest.raises(ConfigError, match=r"stem.unfreeze.layers 9: the encoder has 4 layers"):
        stem(freeze=True, unfreeze=[{"step": 1, "layers": 9}]).wrap(Stack())
    with pytest.raises(ConfigError, match="no stack of equal layers"):
        keep_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 1)


def test_layers_that_are_cut_off() -> None:
    whole = Stack()
    cut = Stack()
    cut.load_state_dict(whole.state_dict())
    encoder = stem(layers=2).wrap(cut).eval()
    x = torch.randn(2, 3)
    expected = whole.eval().norm(whole.blocks[1](whole.blocks[0](whole.embed(x))))
    assert torch.equal(encoder(x), expected)


def test_parameters_from_bottom_to_top() -> None:
    groups = parameter_groups(Stack())
    assert [len(group) for group in groups] == [2, 4, 4, 4, 4, 2]
    assert layer_list(nn.Linear(2, 2)) is None
    stages = parameter_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)))
    assert [len(group) for group in stages] == [0, 2, 2, 0]


def test_adapters_by_the_names_of_layers() -> None:
    pytest.importorskip("peft")
    x = torch.randn(2, 3)
    plain = Stack().eval()
    before = plain(x)
    encoder = stem(lora={"r": 2, "targets": ["q_proj"]}).wrap(plain).train()
    # Adapters start at zero.
    assert torch.allclose(encoder.eval()(x), before)
    names = [name for name, value in encoder.named_parameters() if value.requires_grad]
    assert len(names) == 8 and all(".q_proj.lora_" in name for name in names)
    encoder.train()(x).sum().backward()
    assert all(value.grad is not None for value in encoder.parameters() if value.requires_grad)
    assert all(value.grad is None for value in encoder.parameters() if not value.requires_grad)
    every = stem(lora={"r": 2}).wrap(Stack())
    assert sum(value.requires_grad for value in every.parameters()) == 2 * (1 + 8)


def test_an_adapter_for_a_layer_that_is_not_there() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"targets 'query': .* it has embed, q_proj, v_proj"):
        stem(lora={"targets": ["q_proj", "query"]}).wrap(Stack())


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_weights_of_a_folder_are_loaded_and_random_ones_are_not(bert: Path) -> None:
    config = transformers_config(str(bert))
    loaded = transformers_model(str(bert), config, pretrained=True)
    theirs = transformers.BertModel.from_pretrained(bert)
    for name, value in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    torch.manual_seed(1)
    other = transformers_model(str(bert), config, pretrained=False)
    key = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(other.state_dict()[key], theirs.state_dict()[key])


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    gone(folder)
    torch.save({"weights": Touching(folder / "ran")}, folder / "pytorch_model.bin")


class Touching:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cut short or damaged"),
        (lacking, r"lacks encoder.layer.1.output.dense.weight"),
        (gone, "the weights cannot be read"),
        (pickled, "the weights cannot be read"),
    ],
)
def test_damaged_weights(bert: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bert, folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        transformers_model(str(folder), transformers_config(str(folder)), pretrained=True)
    assert f"stem.name {str(folder)!r}" in str(caught.value)
    assert not (folder / "ran").exists()


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        transformers_config(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"the folder has no config.json"):
        transformers_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "mystery"}')
    with pytest.raises(ConfigError, match=r"mystery"):
        transformers_config(str(tmp_path))


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ConfigError, match=r"stem.name"):
        transformers_config(str(tmp_path))


def test_a_name_without_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(
        ConfigError, match=r"stem.name 'facebook/dinov2-small': .* nor reachable .* give a local folder"
    ):
        transformers_config("facebook/dinov2-small")


def test_an_encoder_of_another_modality() -> None:
    with pytest.raises(ConfigError, match=r"stem.name 'bert': this model reads text, and the stem embeds images"):
        check_modality("bert", "input_ids", "images")
    check_modality("vit", "pixel_values", "images")


def test_names_of_open_clip(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    assert open_clip_name("ViT-B-32/laion2b_s34b_b79k", pretrained=True) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert open_clip_name("ViT-B-32", pretrained=False) == ("ViT-B-32", None)
    with pytest.raises(ConfigError, match=r"open_clip has no model 'ViT-B-33'; did you mean .*ViT-B-32"):
        open_clip_name("ViT-B-33", pretrained=True)
    with pytest.raises(ConfigError, match=r"give stem.name: ViT-B-32/TAG with a tag of openai, "):
        open_clip_name("ViT-B-32", pretrained=True)
    with pytest.raises(ConfigError, match=r"the folder has no open_clip_config.json"):
        open_clip_name(str(tmp_path), pretrained=True)
