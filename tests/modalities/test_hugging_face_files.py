from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.registry import datasets_of, joint_datasets
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from hrt_modalities.vision.files import ImageHuggingFaceConfig
from tests.modalities.tiny_images import CLASSES, folder_of_images, interrupted, losses


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with its cache in the test's folder."""
    package = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


def saved(datasets: Any, files: dict[str, list[tuple[Path, int]]], folder: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    names = {"train": "train", "val": "validation", "test": "test"}
    rows = {
        names[split]: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": path.read_bytes(), "path": None} for path, _ in items],
                "label": [label for _, label in items],
            },
            features=features,
        )
        for split, items in files.items()
    }
    datasets.DatasetDict(rows).save_to_disk(str(folder))
    return folder


def test_folder_parquet_and_hugging_face_train_alike(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder_of_images(tmp_path / "images")
    expected = losses(tmp_path / "a", {"type": "image_folder", "root": str(tmp_path / "images")})
    assert len(expected) == 4
    data = {"type": "hugging_face", "path": str(saved(datasets, files, tmp_path / "saved"))}
    assert losses(tmp_path / "b", data) == expected
    rows = [
        {"image": path.read_bytes(), "label": CLASSES[label], "split": split}
        for split, items in files.items()
        for path, label in items
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "images.parquet"))
    table = {"type": "image_manifest", "file": str(tmp_path / "images.parquet"), "path_column": "image"}
    assert losses(tmp_path / "c", table) == expected
    for name, source in {"d": data, "e": table}.items():
        assert interrupted(tmp_path / name, source, monkeypatch) == expected


def test_parquet_folders_and_single_splits(datasets: Any, tmp_path: Path) -> None:
    files = folder_of_images(tmp_path / "images")
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    for split, items in files.items():
        rows = [{"photo": {"bytes": path.read_bytes(), "path": path.name}, "label": label} for path, label in items]
        datasets.Dataset.from_list(rows).to_parquet(str(hub / f"{split}-00000-of-00001.parquet"))
    dataset = images(tmp_path / "hub", path_column="photo")
    assert [dataset[index].label for index in range(8)] == ["0"] * 4 + ["1"] * 4
    assert dataset[2].name == "train:2" and dataset.shape(2) == (3, 4, 4)
    alone = images(hub / "train-00000-of-00001.parquet", path_column="photo", val=0.25, test=0.25)
    assert len(alone) == 4
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3].value, dataset[3].value)


def images(path: Path, split: str = "train", **options: Any) -> Any:
    return ImageHuggingFaceConfig.model_validate({"type": "hugging_face", "path": str(path), **options}).build(split)


def test_mistakes_are_named(datasets: Any, tmp_path: Path) -> None:
    files = folder_of_images(tmp_path / "images")
    folder = saved(datasets, files, tmp_path / "saved")
    with pytest.raises(
        ConfigError, match=r"data\.path .*saved has no column 'photo'; it has image, label\. Set data\."
    ):
        images(folder, path_column="photo")
    with pytest.raises(ConfigError, match=r"data\.split_column part has no effect: .* has splits; drop it"):
        images(folder, split_column="part")
    with pytest.raises(ConfigError, match=r"data\.test has no effect"):
        images(folder, test=0.3)
    with pytest.raises(ConfigError, match=r"\./absent' is neither a folder"):
        ImageHuggingFaceConfig.model_validate({"type": "hugging_face", "path": "./absent"}).build("train")
    cells = [{"bytes": b"no image", "path": None}, {"bytes": None, "path": "../a.png"}]
    rows = datasets.Dataset.from_dict({"image": cells, "label": ["cat", "dog"]})
    datasets.DatasetDict({"train": rows.select([0]), "test": rows.select([0])}).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(BadSample, match="test:0: not an image"):
        images(tmp_path / "bad", "test", val=0.5)[0]
    rows.save_to_disk(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"out:train:1: path '\.\./a\.png' leads out of"):
        images(tmp_path / "out")


def test_sounds_and_pairs(datasets: Any, tmp_path: Path) -> None:
    sounds = [wav(Audio(torch.full((800 + index,), 0.1), 8000)) for index in range(4)]
    pixels = [path.read_bytes() for path, _ in folder_of_images(tmp_path / "images")["train"][:4]]
    rows = {
        "audio": [{"bytes": sound, "path": "a.wav"} for sound in sounds],
        "image": pixels,
        "caption": [["one", "a one"], ["two"], ["three"], ["four"]],
        "text": ["one", "two", "three", "four"],
        "split": ["train", "train", "dev", "test"],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "sounds"))
    given = {"type": "hugging_face", "path": str(tmp_path / "sounds"), "split_column": "split"}
    spoken = datasets_of("audio")["hugging_face"].model_validate({**given, "label": "text", "label_column": "text"})
    test = spoken.build("test")
    assert len(test) == 1 and test[0].label == "four" and test.shape(0) == (803, 8000)
    assert torch.allclose(test[0].value.waveform_S, torch.full((803,), 0.1), atol=1e-4)
    sources = {
        "image": {"type": "image", "column": "image"},
        "sound": {"type": "audio", "column": "audio"},
        "text": {"type": "text", "column": "caption"},
    }
    joint = {**given, "type": "joint_hugging_face", "sources": sources, "label_column": None}
    pairs = joint_datasets()["joint_hugging_face"].model_validate(joint).build("train")
    assert [pairs.name(index) for index in range(2)] == ["train:0", "train:1"]
    assert pairs[1].value["text"] == "two" and pairs[1].value["image"].shape == (3, 4, 4)
    assert len(pairs[1].value["sound"].waveform_S) == 801
