"""Runs that are loaded to be applied to files and raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm import ConfigError, load_config, load_run, train
from hrt_mm.inference import Predicted, Prediction, TrainedRun

SMALL = ["train.steps=2", "train.batch_size=8", "train.eval_every=null", "train.test=false", "train.workers=0"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return load_run(train(load_config("vision/digits", [*SMALL, f"run.dir={folder}"])))


def classes(predictions: Sequence[Predicted]) -> list[Prediction]:
    assert all(isinstance(prediction, Prediction) for prediction in predictions)
    return [prediction for prediction in predictions if isinstance(prediction, Prediction)]


def test_files_and_values_are_classified_alike(digits: TrainedRun, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(np.asarray(image[0])).save(tmp_path / f"{number}.png")
    predictions = classes(digits.predict(list(pixels)))
    assert digits.predict([tmp_path / f"{number}.png" for number in range(3)]) == predictions
    for prediction in predictions:
        assert set(prediction.probabilities) == set("0123456789")
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert prediction.probability == max(prediction.probabilities.values())
    for whole, part in zip(predictions, classes(digits.predict(list(pixels), batch_size=2)), strict=True):
        assert whole.label == part.label and whole.probability == pytest.approx(part.probability, abs=1e-5)
    assert digits.predict([]) == []


def test_samples_are_embedded(digits: TrainedRun) -> None:
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    assert digits.embed(list(pixels)).shape == (3, 128)
    assert digits.embed(list(pixels), "pixels", batch_size=2).shape == (3, 64)
    with pytest.raises(ConfigError, match="pixels"):
        digits.embed(list(pixels), "pixel")


def test_levels_have_vectors_and_places(digits: TrainedRun) -> None:
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    samples = digits.levels(list(pixels), batch_size=2)
    config = digits.config.single.model
    assert [list(levels) for levels in samples] == [[level.name for level in config.levels]] * 3
    for levels in samples:
        finest, coarsest = next(iter(levels.values())), list(levels.values())[-1]
        assert len(finest) == 64 and finest.unit == "pixels"
        assert sorted(finest.locations) == sorted((x, y, x + 1, y + 1) for x in range(8) for y in range(8))
        left, top = (
            min(location[0] for location in coarsest.locations),
            min(location[1] for location in coarsest.locations),
        )
        right, bottom = (
            max(location[2] for location in coarsest.locations),
            max(location[3] for location in coarsest.locations),
        )
        assert (left, top, right, bottom) == (0, 0, 8, 8)
        assert "tokens of width 128" in str(coarsest)
    pooled_BD = torch.stack([levels[coarsest.level].vectors_ND.mean(0) for levels in samples])
    torch.testing.assert_close(pooled_BD, digits.embed(list(pixels)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="name one with tower="):
        digits.levels(list(pixels), "sound")


def test_other_tasks_have_no_predictions(digits: TrainedRun, tmp_path: Path) -> None:
    overrides = [*SMALL, f"run.dir={tmp_path / 'lm'}"]
    run = load_run(train(load_config("text/quickstart", overrides)))
    with pytest.raises(
        ConfigError, match="trained on task language, which predicts no labels; hrt-mm generate applies it"
    ):
        run.predict(["a"])
    assert run.embed(["one text", "another"]).shape[0] == 2
