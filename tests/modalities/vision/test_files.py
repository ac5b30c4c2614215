from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.common.splits import SPLITS, hash_split
from hrt_modalities.vision.files import ImageFiles, ImageFolderConfig


def put(path: Path, shade: int = 0, size: tuple[int, int] = (5, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path)


def folder(root: Path, split: str, **options: Any) -> ImageFiles:
    dataset = ImageFolderConfig.model_validate({"type": "image_folder", "root": root, **options}).build(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


@pytest.fixture
def split_root(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for label, shade in (("cat", 10), ("dog", 20)):
            for index in range(count):
                put(tmp_path / split / label / f"{index}.png", shade + index)
    return tmp_path


@pytest.fixture
def plain_root(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        for index in range(100):
            put(tmp_path / label / f"{index}.png", index, (2, 2))
    return tmp_path


def test_splits_are_folders(split_root: Path) -> None:
    assert [len(folder(split_root, split)) for split in SPLITS] == [8, 4, 6]
    dataset = folder(split_root, "test")
    assert dataset.classes == ("cat", "dog")
    sample = dataset[4]
    assert (sample.name, sample.label) == ("test/dog/1.png", "dog")
    assert sample.value.shape == tuple(dataset.shape(4)) == (3, 4, 5)
    assert sample.value.unique().tolist() == [21]


def test_val_is_split_off_train_where_there_is_none(split_root: Path) -> None:
    for index in range(100):
        put(split_root / "train" / "cat" / f"more{index}.png")
    (split_root / "val").rename(split_root.parent / "elsewhere")
    splits = {split: folder(split_root, split, val=0.3) for split in SPLITS}
    train, val = ({item.name for item in splits[split].items} for split in ("train", "val"))
    assert not train & val
    assert len(train | val) == 108
    assert 15 <= len(val) <= 45


def test_a_split_by_names_moves_no_file_when_others_come(plain_root: Path) -> None:
    splits = {split: {item.name for item in folder(plain_root, split, split_by="hash").items} for split in SPLITS}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 200
    assert all(8 <= len(splits[split]) <= 35 for split in ("val", "test"))
    for index in range(100):
        put(plain_root / "dog" / f"new{index}.png")
    later = {split: {item.name for item in folder(plain_root, split, split_by="hash").items} for split in SPLITS}
    assert all(splits[split] <= later[split] for split in SPLITS), "a new file moved an old one"


def test_deep_folders_and_other_files(split_root: Path) -> None:
    put(split_root / "train" / "cat" / "deep" / "er" / "x.JPG")
    (split_root / "train" / "cat" / "README.txt").write_text("not an image")
    (split_root / "notes.txt").write_text("not a split")
    names = [item.name for item in folder(split_root, "train").items]
    assert "train/cat/deep/er/x.JPG" in names
    assert len(names) == 9


def test_broken_and_truncated_images_are_bad_samples(split_root: Path) -> None:
    path = split_root / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    (split_root / "train" / "dog" / "0.png").write_text("nothing")
    dataset = folder(split_root, "train")
    good = 0
    bad = {}
    for index in range(len(dataset)):
        try:
            dataset[index]
            good += 1
        except BadSample as error:
            bad[error.name] = error.reason
    assert good == 6
    assert bad["train/cat/1.png"].startswith("cannot be decoded")
    assert bad["train/dog/0.png"].startswith("not an image that can be read")


def test_large_images_are_bad_samples(split_root: Path) -> None:
    dataset = folder(split_root, "train", max_pixels=19)
    with pytest.raises(BadSample, match=r"train/cat/0.png: 5x4 pixels are more than max_pixels=19"):
        dataset[0]
    with pytest.raises(BadSample, match="5x4 pixels"):
        dataset.shape(0)


def test_links_stay_inside_unless_told(split_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("outside") / "secret.png"
    put(secret, 77)
    (split_root / "train" / "cat" / "0.png").unlink()
    (split_root / "train" / "cat" / "0.png").symlink_to(secret)
    with pytest.raises(BadSample, match=r"train/cat/0.png: a link leads out of .*data.follow_links: true"):
        folder(split_root, "train")[0]
    assert folder(split_root, "train", follow_links=True)[0].value.unique().tolist() == [77]


def test_augmentation_is_for_training_alone(split_root: Path) -> None:
    augment = [{"type": "crop", "size": 3}]
    assert folder(split_root, "train", augment=augment)[0].value.shape == (3, 3, 3)
    assert folder(split_root, "test", augment=augment)[0].value.shape == (3, 4, 5)


def test_datasets_travel_to_workers(split_root: Path) -> None:
    dataset = folder(split_root, "train", augment=[{"type": "flip"}])
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].value, dataset[0].value)


def test_a_class_that_train_has_not(split_root: Path) -> None:
    put(split_root / "test" / "emu" / "0.png")
    for split in SPLITS:
        with pytest.raises(ConfigError, match=r"test of data.root .* has classes that train has not: emu"):
            folder(split_root, split)


def test_a_class_whose_every_image_falls_to_test(plain_root: Path) -> None:
    name = next(f"emu/{index}.png" for index in range(100) if hash_split(f"emu/{index}.png", 0.1, 0.1) == "test")
    put(plain_root / name)
    with pytest.raises(ConfigError, match=r"test of data.root .* has classes that train has not: emu"):
        folder(plain_root, "train", split_by="hash")
    assert folder(plain_root, "train").classes == ("cat", "dog", "emu")


@pytest.mark.parametrize("split", SPLITS)
def test_empty_folders_are_named(tmp_path: Path, split: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a folder"):
        folder(tmp_path / "gone", split)
    with pytest.raises(ConfigError, match=r"has no folders in it; expected SPLIT/CLASS/\* or CLASS/\*"):
        folder(tmp_path, split)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match=r"cat has no images; expected files ending in .*\.bmp, .*\.gif"):
        folder(tmp_path, split)
    (tmp_path / "train").mkdir()
    (tmp_path / "cat").rmdir()
    with pytest.raises(ConfigError, match=r"train has no folders in it; expected a folder a class"):
        folder(tmp_path, split)


def test_a_missing_split_is_named(split_root: Path) -> None:
    (split_root / "test").rename(split_root.parent / "elsewhere2")
    assert len(folder(split_root, "train")) == 8
    with pytest.raises(ConfigError, match=r"has no images for split 'test'; it has train: 8, val: 4"):
        folder(split_root, "test")


def test_folders_that_are_no_splits(split_root: Path) -> None:
    (split_root / "trian").mkdir()
    with pytest.raises(ConfigError, match=r"has train/ and also trian/; expected train/, val/ and test/ alone"):
        folder(split_root, "train")


@pytest.mark.parametrize("key", ["val", "test"])
def test_keys_without_effect_are_named(split_root: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.{key} has no effect: .* has its own"):
        folder(split_root, "train", **{key: 0.2})


def test_a_folder_with_splits_opens_again_from_its_resolved_configuration(split_root: Path) -> None:
    written = ImageFolderConfig(type="image_folder", root=split_root).model_dump(mode="json")
    assert len(ImageFolderConfig.model_validate(written).build("test")) == len(folder(split_root, "test"))


def test_parts_leave_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"val 0.6 and test 0.4 leave nothing to train on"):
        folder(Path(), "train", val=0.6, test=0.4)
