"""Runs with a pretrained encoder as the stem: training, stopping, resuming and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.inference import load_run
from hrt_mm.inference.trained import load_task
from hrt_mm.train import train
from hrt_mm.train.optim import param_groups

transformers = pytest.importorskip("transformers")
pytest.importorskip("sklearn")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 8}
    folder = tmp_path / "vit"
    transformers.ViTModel(transformers.ViTConfig(**sizes, num_hidden_layers=3)).save_pretrained(folder)
    processor = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "image_processor_type": "ViTImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def config_of(model: Path, run: Path, *overrides: str, **stem: Any) -> Any:
    settings = {
        "modality": {
            "type": "vision",
            "size": 16,
            "patch": 8,
            "stem": {"type": "transformers", "name": str(model), **stem},
        },
        "model": {
            "levels": [
                {"name": "patches", "dim": 16, "depth": 1, "heads": 2, "group": {"type": "fixed", "stride": 2}},
                {"name": "digit", "dim": 16, "depth": 1, "heads": 2},
            ]
        },
        "task": {"type": "classification", "level": "digit"},
        "data": {"type": "digits"},
        "optim": {"lr": 1.0e-3, "warmup_steps": 0},
        "train": {
            "steps": 4,
            "batch_size": 8,
            "eval_every": None,
            "save_every": 2,
            "test": False,
            "tensorboard": False,
        },
    }
    file = model.parent / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    return load_config(file, [f"run.dir={run}", "train.device=cpu", *overrides])


def encoder_weights(run: Path) -> dict[str, torch.Tensor]:
    weights = load_task(run, "latest").task.state_dict()
    return {name.partition("model.")[2]: value for name, value in weights.items() if ".backbone." in name}


def changed(run: Path, model: Path) -> set[str]:
    """The parts of the encoder that training has changed."""
    before = transformers.ViTModel.from_pretrained(model, add_pooling_layer=False).state_dict()
    after = encoder_weights(run)
    return {name[:8] for name, value in before.items() if not torch.equal(after[name], value)}


def test_a_frozen_encoder_with_cached_features(model: Path, tmp_path: Path) -> None:
    plain = train(config_of(model, tmp_path / "plain", freeze=True))
    cached = train(config_of(model, tmp_path / "cached", freeze=True, cache={"dir": str(tmp_path / "cache")}))
    assert changed(plain, model) == set() == changed(cached, model)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) >= 32
    first, second = (load_task(run, "latest").task.state_dict() for run in (plain, cached))
    # Products over fewer rows are rounded differently.
    assert all(torch.allclose(first[name], value, atol=1e-4) for name, value in second.items())


def test_layers_unfreeze_at_a_step_also_after_a_stop(model: Path, tmp_path: Path) -> None:
    stages = [{"step": 3, "layers": 1}]
    run = train(config_of(model, tmp_path / "run", "train.steps=3", freeze=True, unfreeze=stages))
    assert changed(run, model) == set()
    train(config_of(model, tmp_path / "run", "train.steps=4", freeze=True, unfreeze=stages), resume=True)
    assert changed(run, model) == {"layers.2", "layernor"}


def test_adapters_and_a_rate_of_their_own(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = config_of(model, tmp_path / "run", lora={"r": 2, "targets": ["q_proj", "v_proj"]}, lr_scale=0.1)
    run = train(config)
    weights = encoder_weights(run)
    assert sum("lora_B" in name and bool(value.any()) for name, value in weights.items()) == 6
    task = load_task(run, "latest").task
    scales = {group["lr_scale"]: len(group["params"]) for group in param_groups(task, config.optim)}
    assert scales[0.1] == 12


def test_a_run_has_the_weights_of_its_encoder(model: Path, tmp_path: Path) -> None:
    run = train(config_of(model, tmp_path / "run", freeze=2))
    (model / "model.safetensors").unlink()
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    (prediction,) = load_run(run, "latest").predict([image])
    assert prediction is not None
    with pytest.raises(ConfigError, match=r"stem.name .* weights cannot be read"):
        train(config_of(model, tmp_path / "another", freeze=2))
