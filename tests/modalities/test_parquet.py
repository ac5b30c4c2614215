from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data import parquet
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from hrt_modalities.audio.folders import AudioManifestConfig
from hrt_modalities.joint.manifest import JointManifestConfig
from hrt_modalities.video.folders import VideoManifestConfig
from hrt_modalities.vision.files import ImageManifestConfig
from hrt_modalities.vision.images import read_image
from tests.modalities.tiny_images import losses
from tests.modalities.video.films import film

arrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
tables: Any = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def pictures(folder: Path, count: int = 6) -> list[Path]:
    paths = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (5, 4, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def as_bytes(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def as_structs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """As Hugging Face datasets writes images, sounds and videos."""
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


def write(file: Path, column: str, cells: Sequence[Any], rows_in_group: int = 2, **others: Any) -> Path:
    """A table whose last row is ``val``."""
    labels = [("cat", "dog")[index % 2] for index in range(len(cells))]
    splits = ["train"] * (len(cells) - 1) + ["val"]
    columns = {column: cells, "label": labels, "split": splits, **others}
    tables.write_table(arrow.table(columns), file, row_group_size=rows_in_group)
    return file


def images(file: Path, column: str = "image", **options: Any) -> Any:
    given = {"type": "image_manifest", "file": file, "path_column": column, **options}
    return ImageManifestConfig.model_validate(given).build("train")


@pytest.mark.parametrize("cells", [as_bytes, as_structs])
@pytest.mark.parametrize("statistics", [True, False])
def test_images_in_a_column(tmp_path: Path, cells: Any, statistics: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pictures(tmp_path)
    file = tmp_path / "images.parquet"
    columns = {"image": cells(paths), "label": ["cat", "dog"] * 3, "split": ["train"] * 4 + ["val"] * 2}
    tables.write_table(arrow.table(columns), file, row_group_size=4, write_statistics=statistics)
    beside = tmp_path / "paths.parquet"
    tables.write_table(arrow.table({**columns, "image": [path.name for path in paths]}), beside)
    dataset, expected = images(file), images(beside)
    assert len(dataset) == len(expected) == 4
    for limit in (parquet.MAX_CACHED, 10):
        # Row groups of more than the limit are not cached.
        monkeypatch.setattr(parquet, "MAX_CACHED", limit)
        parquet._groups._columns.clear()
        for one, other in zip(dataset, expected, strict=True):
            assert torch.equal(one.value, other.value) and one.label == other.label
            assert one.name == f"images.parquet:{int(other.name[0]) + 1}"
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[1].value, dataset[1].value) and copied.shape(1) == (3, 5, 4)


def test_paths_beside_missing_bytes(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 4)
    cells = as_structs(paths)
    cells[1]["bytes"] = None
    cells[2] = {"bytes": None, "path": "../secret.png"}
    file = write(tmp_path / "images.parquet", "image", cells)
    with pytest.raises(ConfigError, match=r"images.parquet:3: path '../secret.png' leads out of"):
        images(file)
    cells[2] = {"bytes": None, "path": None}
    with pytest.raises(ConfigError, match=r"images.parquet:3: the value of 'image' is null"):
        images(write(file, "image", cells))
    cells[2] = {"bytes": b"", "path": None}
    dataset = images(write(file, "image", cells))
    assert [dataset.name(index) for index in range(3)] == ["images.parquet:1", "1.png", "images.parquet:3"]
    assert torch.equal(dataset[1].value, read_image(paths[1], ""))


def test_bad_bytes_are_bad_samples_of_their_row(tmp_path: Path) -> None:
    good = pictures(tmp_path, 3)[0].read_bytes()
    dataset = images(write(tmp_path / "images.parquet", "image", [good, b"no image", good[:60], b"", good]))
    assert dataset[0].value.shape == (3, 5, 4)
    for row, reason in {2: "not an image", 3: "cannot be decoded", 4: "not an image"}.items():
        with pytest.raises(BadSample, match=f"images.parquet:{row}: {reason}"):
            dataset[row - 1]


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "images.parquet", "image", as_bytes(pictures(tmp_path)))
    with pytest.raises(ConfigError, match=r"has no column 'photo'; it has label, split, image. Set data.path_column"):
        images(file, "photo")
    with pytest.raises(ConfigError, match=r"images.parquet:1: image must be a name or a whole number, got the bytes"):
        images(file, "image", label_column="image")
    dataset = images(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadSample, match=r"images.parquet:1: cannot be read: the table was changed"):
        dataset[0]
    with pytest.raises(ConfigError, match=r"images.parquet cannot be read as Parquet"):
        images(file)


def test_sounds_videos_and_pairs(tmp_path: Path) -> None:
    sounds, films = [], []
    for index in range(4):
        waveform_S = torch.from_numpy(np.random.default_rng(index).normal(0, 0.1, 800 + index).astype(np.float32))
        sounds.append(tmp_path / f"{index}.wav")
        sounds[-1].write_bytes(wav(Audio(waveform_S, 8000)))
        films.append(film(tmp_path / f"{index}.mp4", 6 + index))
    rows: dict[str, Any] = {
        "wav": as_structs(sounds),
        "mp4": as_structs(films),
        "title": [f"sound {index}" for index in range(4)],
    }
    file = write(tmp_path / "media.parquet", "image", as_bytes(pictures(tmp_path, 4)), **rows)
    names: dict[str, Any] = {
        "wav": [path.name for path in sounds],
        "mp4": [path.name for path in films],
        "title": rows["title"],
    }
    beside = write(tmp_path / "paths.parquet", "image", [f"{index}.png" for index in range(4)], **names)
    configs: dict[str, Any] = {"wav": AudioManifestConfig, "mp4": VideoManifestConfig}
    for kind, config in configs.items():
        modality = "audio" if kind == "wav" else "video"
        built = [
            config.model_validate({"type": f"{modality}_manifest", "file": table, "path_column": kind}).build("train")
            for table in (file, beside)
        ]
        for one, other in zip(*built, strict=True):
            for attribute in ("waveform_S", "rate") if kind == "wav" else ("pixels_N3HW", "times_N"):
                values = [getattr(sample.value, attribute, None) for sample in (one, other)]
                assert values[0] is values[1] is None or np.array_equal(np.asarray(values[0]), np.asarray(values[1]))
        assert [built[0].shape(index) for index in range(3)] == [built[1].shape(index) for index in range(3)]
    sources = {
        "image": {"type": "image", "column": "image"},
        "sound": {"type": "audio", "column": "wav"},
        "text": {"type": "text", "column": "title"},
    }
    pairs: list[Any] = [
        JointManifestConfig.model_validate({"type": "joint_manifest", "file": table, "sources": sources}).build("train")
        for table in (file, beside)
    ]
    for one, other in zip(*pairs, strict=True):
        assert torch.equal(one.value["image"], other.value["image"])
        assert torch.equal(one.value["sound"].waveform_S, other.value["sound"].waveform_S)
        assert one.value["text"] == other.value["text"]
    sources["text"] = {"type": "text", "column": "image"}
    wrong = JointManifestConfig.model_validate({"type": "joint_manifest", "file": file, "sources": sources})
    with pytest.raises(ConfigError, match=r"media.parquet:1: image must be a text, or a list of texts, got the bytes"):
        wrong.build("train")


def test_few_files_are_open(tmp_path: Path) -> None:
    file = write(tmp_path / "images.parquet", "image", as_bytes(pictures(tmp_path, 40)), rows_in_group=40)
    dataset = images(file)
    dataset[0]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for sample in dataset:
        assert sample.value.shape == (3, 5, 4)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 8


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"], indirect=True)
def test_workers_that_are_not_forked_read_bytes_and_paths(tmp_path: Path, start_method: None) -> None:
    paths = pictures(tmp_path, 7)
    cells = as_structs(paths)
    for index in (1, 3):
        cells[index]["bytes"] = None
    file = write(tmp_path / "images.parquet", "image", cells)
    data = {"type": "image_manifest", "file": str(file), "path_column": "image"}
    expected = losses(tmp_path / "here", data, "train.test=false")
    assert losses(tmp_path / "there", data, "train.workers=1", "train.test=false") == expected
