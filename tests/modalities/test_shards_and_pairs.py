from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.registry import datasets_of, joint_datasets
from hrt_mm.data.shards import ShardWriter
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from tests.modalities.tiny_images import CLASSES, LEVEL, folder_of_images, interrupted, losses


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def dataset(modality: str, values: dict[str, Any], split: str = "train") -> Any:
    config = datasets_of(modality)["webdataset"]
    return config.model_validate({"type": "webdataset", **values}).build(split)


def joint(values: dict[str, Any], split: str = "train") -> Any:
    return joint_datasets()[values["type"]].model_validate(values).build(split)


def pack(tmp_path: Path, data: dict[str, Any], out: str = "shards", *words: str) -> int:
    modality = {"type": "vision", "patch": 2}
    config = {
        "modality": modality,
        "model": {"levels": [LEVEL]},
        "task": {"type": "classification"},
        "data": data,
        "train": {"steps": 1, "batch_size": 2},
    }
    (tmp_path / "pack.json").write_text(json.dumps(config))
    return main(["data", "pack", str(tmp_path / "pack.json"), "--out", str(tmp_path / out), *words])


def test_packed_shards_train_as_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of_images(tmp_path / "images")
    data = {"type": "image_folder", "root": str(tmp_path / "images")}
    assert pack(tmp_path, data, "shards", "--shard-mb", "0.006") == 0
    assert "train: 8 samples in 3 shards" in capsys.readouterr().out
    shards = {"type": "webdataset", "root": str(tmp_path / "shards")}
    expected = losses(tmp_path / "a", data)
    assert len(expected) == 4
    assert losses(tmp_path / "b", shards) == expected
    assert interrupted(tmp_path / "c", shards, monkeypatch) == expected
    images = dataset("vision", shards)
    assert images.name(3) == "train-000001.tar/00000003.png" and images.classes == CLASSES
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[3].value, images[3].value)
    # Shards can be packed again.
    assert pack(tmp_path, shards, "again") == 0
    assert torch.equal(dataset("vision", {**shards, "root": tmp_path / "again"})[3].value, images[3].value)
    assert pack(tmp_path, data) == 2
    assert pack(tmp_path, data, "none", "--shard-mb", "0") == 2


def test_broken_files_in_shards_and_when_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_images(tmp_path / "images")
    (tmp_path / "images" / "train" / "cat" / "1.png").write_bytes(b"no image")
    (tmp_path / "images" / "train" / "cat" / "2.png").unlink()
    (tmp_path / "images" / "train" / "cat" / "2.png").symlink_to("/etc/hostname")
    assert pack(tmp_path, {"type": "image_folder", "root": str(tmp_path / "images")}) == 0
    assert "1 samples cannot be read and are left out" in capsys.readouterr().out
    shards = {"root": tmp_path / "shards"}
    images = dataset("vision", shards)
    assert len(images) == 7
    with pytest.raises(BadSample, match=r"train-000000\.tar/00000001\.png: not an image"):
        images[1]
    shard = tmp_path / "shards" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(BadSample, match="the shard was changed"):
        images[0]
    with pytest.raises(ConfigError, match=r"train-000000\.tar ends in the middle after"):
        dataset("vision", shards)
    shutil.copy(tmp_path / "shards" / "val-000000.tar", tmp_path / "shards" / "other.tar")
    with pytest.raises(ConfigError, match=r"other\.tar is in no split, and other shards are"):
        dataset("vision", shards)
    with pytest.raises(ConfigError, match="no such file or folder"):
        dataset("vision", {"root": tmp_path / "absent"})
    with pytest.raises(ConfigError, match="has no shards"):
        dataset("vision", {"root": tmp_path / "images"})


def test_sounds_and_captions_in_shards(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "part", 1 << 20)
    for index in range(10):
        sound = wav(Audio(torch.full((800 + index,), 0.1), 8000))
        picture = tmp_path / "picture.png"
        Image.new("L", (3, 2), index).save(picture)
        fields = json.dumps({"caption": f"caption {index}", "speaker": index // 2})
        writer.add(
            {"wav": sound, "png": picture.read_bytes(), "txt": f"text {index}".encode(), "json": fields.encode()}
        )
    writer.close()
    values = {"root": tmp_path, "label_column": "txt", "label": "text", "group": "speaker", "val": 0.2, "test": 0.2}
    spoken = [dataset("audio", values, split) for split in ("train", "val", "test")]
    assert sum(map(len, spoken)) == 10 and all(spoken)
    one = spoken[0][0]
    assert len(one.value.waveform_S) == 800 + int(one.label.removeprefix("text "))
    sources = {
        "image": {"type": "image", "column": "png"},
        "sound": {"type": "audio", "column": "wav"},
        "text": {"type": "text", "column": "caption"},
    }
    rows = joint({"type": "joint_webdataset", "root": tmp_path, "sources": sources})
    sample = rows[2].value
    number = int(sample["text"].removeprefix("caption "))
    assert sample["image"].unique().tolist() == [number] and len(sample["sound"].waveform_S) == 800 + number
    with pytest.raises(ConfigError, match=r"part-000000\.tar:00000000: the value of 'cls' is missing"):
        dataset("vision", {"root": tmp_path, "path_column": "png"})


def pairs_folder(root: Path) -> dict[str, Any]:
    for split, count in {"train": 3, "val": 1, "test": 1}.items():
        (root / split / "deep").mkdir(parents=True)
        for index in range(count):
            Image.new("L", (3, 2), index).save(root / split / "deep" / f"{index}.png")
            (root / split / "deep" / f"{index}.txt").write_text(f"größe {index}\n")
    sources = {"image": {"type": "image", "column": "image"}, "text": {"type": "text", "column": "text"}}
    return {"type": "joint_folder", "root": root, "sources": sources}


def test_files_of_one_stem_are_a_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = pairs_folder(tmp_path / "pairs")
    train = tmp_path / "pairs" / "train"
    (train / "alone.txt").write_text("no picture")
    (train / "deep" / "1.txt").write_text(" \n")
    (train / "deep" / "2.txt").write_bytes(b"\xff\xfe\x00\xd8\x00")
    rows = joint(values)
    assert [len(joint(values, split)) for split in ("train", "val", "test")] == [1, 1, 1]
    assert rows[0].value["text"] == "größe 0" and rows[0].value["image"].unique().tolist() == [0]
    assert any("3 stems lack a file or a text of image, text and are left out" in line for line in caplog.messages)
    labelled = joint({**values, "label_column": "folder"})
    assert labelled[0].label == "deep"
    Image.new("L", (3, 2)).save(train / "deep" / "0.bmp")
    with pytest.raises(ConfigError, match=r"deep/0\.bmp and train/deep/0\.png are both the image of one stem"):
        joint(values)


def test_captions_of_coco(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        for index in range(3):
            Image.new("L", (3, 2), index).save(tmp_path / f"{split}2017" / f"{index}.jpg")
        images = [{"id": 7 + index, "file_name": f"{index}.jpg"} for index in range(3)]
        captions = [{"image_id": 7 + index % 2, "caption": f"caption {index} "} for index in range(4)]
        file = tmp_path / "annotations" / f"captions_{split}2017.json"
        file.write_text(json.dumps({"images": images, "annotations": captions}))
    values = {"type": "coco_captions", "root": tmp_path}
    rows = joint(values)
    assert len(rows) == 2 and len(joint(values, "val")) == 2
    assert any("1 images without a caption are left out: 2.jpg" in line for line in caplog.messages)
    assert {rows[1].value["text"] for _ in range(40)} == {"caption 1", "caption 3"}
    assert joint(values, "val")[1].value["text"] == "caption 1"
    for wrong, message in (
        ({"images": images, "annotations": [{"image_id": 1, "caption": "x"}]}, r"annotations\[0\] must have a caption"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\] must have id and file_name"),
        ([], "must be an object with the lists images and annotations"),
        (
            {"images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]},
            "leads",
        ),
    ):
        (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match=message):
            joint(values)
