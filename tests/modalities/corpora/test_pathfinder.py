"""Pathfinder: the pictures, their cache, and their distribution beside that of the original."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrt_mm.cli.main import main
from hrt_modalities.corpora import pathfinder_data
from hrt_modalities.corpora.pathfinder import SIZE, marker, pictures
from hrt_modalities.corpora.pathfinder_data import CLASSES, PathfinderConfig, drawn


@pytest.fixture(scope="module")
def some() -> tuple[np.ndarray, np.ndarray]:
    return pictures(6000, np.random.default_rng(0))


def test_pictures_are_reproducible_and_balanced(some: tuple[np.ndarray, np.ndarray]) -> None:
    images, connected = some
    assert images.shape[1:] == (SIZE, SIZE) and images.dtype == np.uint8
    assert len(images) == len(connected) > 80
    assert (images.max((1, 2)) == 255).all() and not images[:, 0, 0].any()
    assert 0.3 < connected.mean() < 0.7
    again, same = pictures(6000, np.random.default_rng(0))
    assert (again == images).all() and (same == connected).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_every_picture_has_a_marker(some: tuple[np.ndarray, np.ndarray]) -> None:
    # The middle of a marker is a plateau: its four pixels are as bright as a whole marker.
    disc = marker()
    plateau = disc > 0.85
    assert plateau.sum() == 4
    for image in some[0]:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image.astype(float), 1), (2, 2))
        values = windows.reshape(-1, 4)
        even = (values.min(1) > 150) & (values.max(1) - values.min(1) < 0.13 * values.max(1))
        assert even.sum() >= 1


def test_seeds_differ_and_counts_do_not_change_the_pictures(tmp_path: Path) -> None:
    config = PathfinderConfig(type="pathfinder", train=12, val=3, test=3, cache=tmp_path)
    train, test = config.build("train"), config.build("test")
    assert (len(train), len(config.build("val")), len(test)) == (12, 3, 3)
    sample = train[0]
    assert tuple(sample.value.shape) == (1, SIZE, SIZE) and sample.label in CLASSES
    stream = drawn(0)
    expected = [next(stream) for _ in range(18)]
    assert all((train[n].value[0].numpy() == expected[n][0]).all() for n in range(12))
    assert test[2].label == CLASSES[expected[17][1]] and (test[2].value[0].numpy() == expected[17][0]).all()
    other = PathfinderConfig(type="pathfinder", train=12, val=3, test=3, seed=1, cache=tmp_path).build("train")
    assert not (other[0].value == train[0].value).all()


def test_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PathfinderConfig(type="pathfinder", train=2, val=1, test=1, cache=tmp_path)
    first = config.build("train")[1]
    monkeypatch.setattr(pathfinder_data, "drawn", None)
    assert (config.build("train")[1].value == first.value).all()


def test_pictures_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    argv = ["data", "pathfinder", "--out", str(out), "--train", "5", "--val", "1", "--test", "1"]
    assert main(argv) == 0
    assert "5 train, 1 val, 1 test" in capsys.readouterr().out
    files = sorted(out.glob("train/*/*.png"))
    assert len(files) == 5 and {file.parent.name for file in files} <= set(CLASSES)
    stream = drawn(0)
    for file in sorted(files, key=lambda path: path.name):
        image, connected = next(stream)
        assert file.parent.name == CLASSES[connected]
        assert (np.asarray(Image.open(file)) == image).all()
    assert main(argv) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.skipif("HRT_MM_DATA" not in os.environ, reason="HRT_MM_DATA names no folder with pathfinder32/")
def test_the_distribution_is_that_of_the_original(some: tuple[np.ndarray, np.ndarray]) -> None:
    archive = Path(os.environ["HRT_MM_DATA"]) / "pathfinder32" / "reference-000000.tar"
    if not archive.is_file():
        pytest.skip("HRT_MM_DATA has no pathfinder32/")
    with tarfile.open(archive) as file:
        names = [member for member in file if member.name.endswith(".png")]
        original = np.stack([np.asarray(Image.open(io.BytesIO(file.extractfile(name).read()))) for name in names])  # type: ignore[union-attr]
    images = some[0]
    assert images.mean() == pytest.approx(original.mean(), rel=0.08)
    assert images.std() == pytest.approx(original.std(), rel=0.04)
    assert (images > 0).mean() == pytest.approx((original > 0).mean(), rel=0.08)
    rows = [(pixels > 60).mean((0, 2)) for pixels in (images, original)]
    assert np.corrcoef(*rows)[0, 1] > 0.9
