"""Folders of classes and splits, for all modalities alike."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_modalities.audio.folders import AudioFolderConfig as Sounds
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.text.documents import DocumentsConfig as Documents
from hrt_modalities.video.folders import VideoFolderConfig as Videos
from hrt_modalities.vision.files import ImageFolderConfig as Images

KINDS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "images": (Images, "image_folder", ".png"),
    "sounds": (Sounds, "audio_folder", ".wav"),
    "videos": (Videos, "video_folder", ".mp4"),
    "documents": (Documents, "documents", ".txt"),
}
COMMON = [
    ("train", "val", "test"),
    ("Train", "Val", "Test"),
    ("TRAIN", "VALID", "TEST"),
    ("training", "validation", "testing"),
    ("Training", "dev", "Testing"),
    ("train", "eval", "test"),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(root: Path, kind: str, *folders: str, count: int = 2) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index}{KINDS[kind][2]}").write_bytes(b"x")
    return root


def built(kind: str, root: Path, split: str = "train", **options: Any) -> Any:
    config, name, suffix = KINDS[kind]
    options = {"suffixes": (suffix,), **options} if kind == "documents" else options
    return config(type=name, root=root, **options).build(split)


def names(dataset: Any) -> list[str]:
    return [item.name for item in dataset.items]


@pytest.mark.parametrize("splits", COMMON)
def test_splits_are_known_in_any_case_and_form(tmp_path: Path, kind: str, splits: Sequence[str]) -> None:
    put(tmp_path, kind, *(f"{split}/{label}" for split in splits for label in "ab"))
    for split, folder in zip(SPLITS, splits, strict=True):
        result = built(kind, tmp_path, split)
        assert result.classes == ("a", "b")
        assert {name.split("/")[0] for name in names(result)} == {folder}


def test_two_folders_of_one_split_are_refused(tmp_path: Path, kind: str) -> None:
    put(tmp_path, kind, "train/a", "val/a", "dev/a")
    with pytest.raises(ConfigError, match="two folders of the split val: dev/ and val/; merge or rename"):
        built(kind, tmp_path)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train2017/a", "val2017/a"), "train2017/, val2017/ look like splits.*data.layout: classes"),
        (("train_set/a", "test_set/a"), "test_set/, train_set/ look like splits"),
        (("trainset/a", "testset/a"), "testset/, trainset/ look like splits"),
        (("my-train/a", "my-test/a"), "look like splits"),
        (("test/a", "other/a"), "has test/ but no train/.*data.layout: classes"),
        (("val/a", "test/a"), "has test/, val/ but no train/"),
        (("train/a", "bus/a"), "has train/ and also bus/.*data.layout: classes"),
        (("set/train/a", "set/test/a"), "set/test/, set/train/ look like splits.*set data.root to"),
        (("x/y/Train/a", "x/y/Test/a"), "x/y/Test/, x/y/Train/ look like splits.*set data.root to .*x/y"),
        (("a/train", "a/test", "b/train", "b/test"), "look like splits.*SPLIT/CLASS"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused(
    tmp_path: Path, kind: str, folders: Sequence[str], message: str
) -> None:
    put(tmp_path, kind, *folders)
    with pytest.raises(ConfigError, match=message):
        built(kind, tmp_path)


def test_classes_may_be_called_like_splits_where_that_is_said(tmp_path: Path, kind: str) -> None:
    put(tmp_path, kind, "train", "bus", "test", count=40)
    assert built(kind, tmp_path, layout="classes").classes == ("bus", "test", "train")


def test_a_class_whose_name_has_the_word_of_a_split(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, kind, "test tube", "beaker", "valley", "trainers", count=40)
    with caplog.at_level(logging.WARNING):
        assert built(kind, tmp_path).classes == ("beaker", "test tube", "trainers", "valley")
    assert "test tube/ is read as a class" in caplog.text and "valley" not in caplog.text


def test_hidden_folders_and_files_are_neither_classes_nor_samples(tmp_path: Path, kind: str) -> None:
    suffix = KINDS[kind][2]
    put(tmp_path, kind, "cat", "dog", ".ipynb_checkpoints", "__MACOSX/cat", "@eaDir", count=40)
    (tmp_path / ".empty").mkdir()
    for name in (f"cat/._0{suffix}", "cat/Thumbs.db", "dog/.DS_Store", "dog/desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    result = [name for split in SPLITS for name in names(built(kind, tmp_path, split))]
    assert len(result) == 80 and built(kind, tmp_path).classes == ("cat", "dog")
    assert not any("/." in name for name in result)


def test_a_class_of_files_that_are_not_read_is_refused(tmp_path: Path, kind: str) -> None:
    put(tmp_path, kind, "cat", "dog", count=40)
    (tmp_path / "emu").mkdir()
    for index in range(3):
        (tmp_path / "emu" / f"{index}.XYZ").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"emu has no \w+, but 3 files of .xyz, .*0.XYZ, 1.XYZ, 2.XYZ"):
        built(kind, tmp_path)


def test_files_that_are_not_read_are_said_once(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, kind, "cat", "dog", count=40)
    for name in ("cat/0.lab", "cat/100.heic", "dog/101.HEIC", "list.csv"):
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        for split in SPLITS:
            built(kind, tmp_path, split)
    assert caplog.text.count("left out 2 files of .heic, which are not read") == 1
    assert ".lab" not in caplog.text and "list.csv" not in caplog.text


def test_pipes_and_circles_are_named_and_left_out(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    suffix = KINDS[kind][2]
    put(tmp_path, kind, "cat", "dog", count=40)
    os.mkfifo(tmp_path / "cat" / f"x{suffix}")
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dog" / f"gone{suffix}").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING):
        result = [name for split in SPLITS for name in names(built(kind, tmp_path, split))]
    assert len(result) == 80
    for name in (f"cat/x{suffix} (a FIFO)", "cat/up (a link", "loop (a link", f"dog/gone{suffix} (a broken link"):
        assert name in caplog.text


def test_files_beside_the_classes_are_named(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    suffix = KINDS[kind][2]
    put(tmp_path, kind, "train/cat", "train/dog", "val/cat", "val/dog")
    put(tmp_path, kind, ".", "train", count=1)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("x")
    with caplog.at_level(logging.WARNING):
        assert len(built(kind, tmp_path)) == 4
    assert f"0{suffix}, train/0{suffix} lie in no folder of a class" in caplog.text
    assert "tables/ beside the splits has nothing that is read" in caplog.text


def test_names_that_are_not_utf8(tmp_path: Path, kind: str) -> None:
    root = put(tmp_path, kind, "train/dog", "val/dog")
    for split in ("train", "val"):
        raw = os.fsencode(root / split) + b"/caf\xe9"
        os.mkdir(raw)
        with open(raw + b"/\xff" + KINDS[kind][2].encode(), "wb") as file:
            file.write(b"x")
    dataset = built(kind, root)
    assert dataset.classes == ("caf\\xe9", "dog")
    if kind != "documents":
        assert dataset.name(0).encode() == f"train/caf\\xe9/\\xff{KINDS[kind][2]}".encode()
    else:
        assert dataset[0].name == "train/caf\\xe9/\\xff.txt" and dataset[0].value == b"x"


def test_a_test_folder_without_classes_is_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    put(tmp_path, kind, "train/cat", "train/dog", "test")
    with pytest.raises(
        ConfigError, match=r"test has no folders in it, but 2 files of .*; if these have no classes, move"
    ):
        built(kind, tmp_path)


def test_a_root_that_is_hidden_or_a_link(tmp_path: Path, kind: str) -> None:
    put(tmp_path / ".hidden", kind, "train/a", "val/a")
    (tmp_path / "link").symlink_to(".hidden")
    for root in (".hidden", "link"):
        assert len(built(kind, tmp_path / root)) == 2
