from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hrt_modalities.common.pretrained import PretrainedStem, StemEncoder


class Counting(nn.Module):
    """Counts the rows that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        mapped: Tensor = self.linear(x)
        return mapped


def encoder(folder: Path, seed: int = 0, **options: object) -> tuple[Counting, StemEncoder]:
    torch.manual_seed(seed)
    stem = {"name": "any", "freeze": True, "cache": {"dir": str(folder), **options}}
    module = Counting()
    return module, PretrainedStem.model_validate(stem).wrap(module)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_features_are_computed_once_over_epochs_and_runs(tmp_path: Path) -> None:
    x = torch.randn(5, 3)
    module, wrapped = encoder(tmp_path)
    expected = module.linear(x)
    for _ in range(2):
        assert torch.equal(wrapped.features(x), expected)
    assert module.rows == 5 and len(entries(tmp_path)) == 5
    # Another run in another order, with a new sample.
    again, other = encoder(tmp_path)
    mixed = torch.cat([x[[3, 1]], torch.ones(1, 3)])
    assert torch.equal(other.features(mixed), again.linear(mixed))
    assert again.rows == 1 and not list(tmp_path.rglob("*.part"))


def test_other_weights_and_other_inputs_have_entries_of_their_own(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    _, wrapped = encoder(tmp_path)
    wrapped.features(x)
    module, other = encoder(tmp_path, seed=1)
    assert torch.equal(other.features(x), module.linear(x)) and module.rows == 2
    # Augmentation changes the input.
    assert torch.equal(other.features(x + 1e-6), module.linear(x + 1e-6)) and module.rows == 4
    # Weights that are loaded after the first batch.
    with torch.no_grad():
        module.linear.weight.add_(1)
    assert torch.equal(other.features(x), module.linear(x)) and module.rows == 6


def test_equal_inputs_of_a_batch_are_computed_once(tmp_path: Path) -> None:
    module, wrapped = encoder(tmp_path)
    assert wrapped.features(torch.ones(4, 3)).shape == (4, 4)
    assert module.rows == 1


def test_precision_is_part_of_the_key(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    module, wrapped = encoder(tmp_path)
    wrapped.features(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert wrapped.features(x).dtype == torch.bfloat16
        assert torch.equal(wrapped.features(x), module.linear(x))
    assert wrapped.features(x).dtype == torch.float32


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:-1] + b"\x01"])
def test_damaged_entries_are_computed_again(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    x = torch.randn(1, 3)
    module, wrapped = encoder(tmp_path)
    expected = wrapped.features(x)
    (path,) = entries(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(wrapped.features(x), expected) and module.rows == 2
    assert torch.equal(wrapped.features(x), expected) and module.rows == 2


def test_the_folder_does_not_grow_beyond_its_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, wrapped = encoder(tmp_path, max_gib=500 / 2**30)
    x = torch.randn(20, 3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(wrapped.features(x), module.linear(x))
        wrapped.features(x)
    assert 1 <= len(entries(tmp_path)) < 6
    assert sum("raise max_gib" in record.message for record in caplog.records) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    module, wrapped = encoder(tmp_path / "file")
    x = torch.randn(2, 3)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(wrapped.features(x), module.linear(x))
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("options", [{}, {"freeze": 1}, {"freeze": True, "unfreeze": [{"step": 1}]}, {"lora": {}}])
def test_an_encoder_that_trains_has_no_cache(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="cache needs an encoder whose features never change"):
        PretrainedStem.model_validate({"name": "any", "cache": {"dir": "cache"}, **options})
