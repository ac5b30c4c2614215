from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.vision.memory import Cifar10Config, DigitsConfig, FashionMnistConfig, ImagesInMemory, MnistConfig


def write_idx(folder: Path, prefix: str, count: int, labels: int | None = None) -> None:
    """A few images in the format of MNIST; image i is filled with i, and its label is i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(count, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    head = b"\0\0\x08\x03" + b"".join(size.to_bytes(4) for size in pixels.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    targets = np.arange(labels or count, dtype=np.uint8) % 10
    head = b"\0\0\x08\x01" + len(targets).to_bytes(4)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + targets.tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("MNIST", "FashionMNIST"):
        write_idx(tmp_path / name / "raw", "train", 200)
        write_idx(tmp_path / name / "raw", "t10k", 30)
    return tmp_path


def digits(split: str, **options: Any) -> ImagesInMemory:
    return DigitsConfig.model_validate({"type": "digits", **options}).build(split)


def mnist(root: Path, split: str, **options: Any) -> ImagesInMemory:
    return MnistConfig.model_validate({"type": "mnist", "root": root, **options}).build(split)


def test_digits_split_by_class_without_overlap() -> None:
    splits = {split: digits(split) for split in SPLITS}
    assert sum(map(len, splits.values())) == 1797
    assert len(splits["test"]) == pytest.approx(1797 * 0.2, abs=5)
    names = [name for dataset in splits.values() for name in dataset.names]
    assert len(set(names)) == 1797
    for dataset in splits.values():
        counts = np.bincount(dataset.labels)
        assert counts.max() - counts.min() <= 0.1 * counts.mean() + 2


def test_digits_are_the_same_each_time() -> None:
    first, again = digits("test"), digits("test")
    assert torch.equal(first.images, again.images)
    assert first.labels == again.labels


def test_digits_keep_their_17_shades() -> None:
    images = digits("train").images
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [round(shade * 255 / 16) for shade in range(17)]


def test_a_sample_has_its_label_by_name() -> None:
    dataset = digits("val")
    sample = dataset[3]
    assert sample.value.shape == tuple(dataset.shape(3)) == (1, 8, 8)
    assert dataset.classes[dataset.labels[3]] == sample.label
    assert sample.name.startswith("digits/train/")


def test_samples_are_views_of_what_is_decoded_once() -> None:
    dataset = digits("train")
    assert dataset[7].value.untyped_storage().data_ptr() == dataset.images.untyped_storage().data_ptr()


def test_augmentation_is_for_training_alone_and_follows_the_seed() -> None:
    options = {"augment": [{"type": "affine", "degrees": 30.0, "translate": (0.1, 0.1)}]}
    plain, train = digits("train"), digits("train", **options)
    torch.manual_seed(1)
    first = train[0].value
    torch.manual_seed(1)
    assert torch.equal(train[0].value, first)
    assert not torch.equal(plain[0].value, first)
    assert torch.equal(digits("val", **options)[0].value, digits("val")[0].value)


def test_datasets_travel_to_workers() -> None:
    dataset = pickle.loads(pickle.dumps(digits("train", augment=[{"type": "crop", "padding": 1}])))
    assert dataset[0].value.shape == (1, 8, 8)


def test_mnist_is_read_from_torchvisions_layout(root: Path) -> None:
    splits = {split: mnist(root, split) for split in SPLITS}
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 180, "val": 20, "test": 30}
    sample = splits["test"][7]
    assert (sample.label, sample.name) == ("7", "mnist/test/7")
    assert sample.value.unique().tolist() == [7]
    for split in ("train", "val"):
        for sample in (splits[split][index] for index in range(len(splits[split]))):
            assert int(sample.label) == int(sample.value[0, 0, 0]) % 10
            assert sample.name == f"mnist/train/{int(sample.value[0, 0, 0])}"


def test_the_held_out_part_can_be_chosen(root: Path) -> None:
    assert [len(mnist(root, split, val=0.2)) for split in SPLITS] == [160, 40, 30]


def test_a_part_of_the_training_images_has_every_class(root: Path) -> None:
    few, more, every = (mnist(root, "train", use=part) for part in (0.06, 0.5, 1.0))
    assert [len(few), len(more), len(every)] == [10, 90, 180]
    assert sorted(few.labels) == list(range(10))
    assert set(few.names) <= set(more.names) <= set(every.names)
    assert mnist(root, "val", use=0.1).names == mnist(root, "val").names


def test_fashion_mnist_has_its_own_folder_and_names(root: Path) -> None:
    config = FashionMnistConfig(type="fashion_mnist", root=root)
    assert config.build("test").classes[:2] == ("T-shirt/top", "Trouser")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no .*train-images-idx3-ubyte; set data.download: true, or data.root"):
        mnist(tmp_path, "train")
    with pytest.raises(ConfigError, match=r"has no .*cifar-10-batches-py; set data.download: true"):
        Cifar10Config(type="cifar10", root=tmp_path).build("train")


def test_broken_files_are_named(root: Path, tmp_path: Path) -> None:
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"mnist in .* is broken \(.+\); delete it and fetch it again"):
        mnist(root, "train")
    write_idx(root / "MNIST" / "raw", "train", 20, labels=19)
    with pytest.raises(ConfigError, match="20 images but 19 labels"):
        mnist(root, "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ConfigError, match=r"cifar10 in .* is broken .*corrupted"):
        Cifar10Config(type="cifar10", root=tmp_path).build("train")


def test_missing_files_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def fetch(self: MnistConfig, root: Path) -> None:
        fetched.append(root)
        write_idx(root / "MNIST" / "raw", "train", 100)
        write_idx(root / "MNIST" / "raw", "t10k", 10)

    monkeypatch.setattr(MnistConfig, "fetch", fetch)
    root = tmp_path / "new"
    assert [len(mnist(root, split, download=True)) for split in SPLITS] == [90, 10, 10]
    assert len(fetched) == 1
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ConfigError, match=r"has only a part of mnist: .*t10k-labels-idx1-ubyte is missing; delete"):
        mnist(root, "test", download=True)


def test_a_failed_fetch_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(self: MnistConfig, root: Path) -> None:
        write_idx(root / "MNIST" / "raw", "train", 100)
        raise OSError("no route to host")

    monkeypatch.setattr(MnistConfig, "fetch", fetch)
    with pytest.raises(ConfigError, match=r"mnist cannot be fetched to data.root .*: no route to host"):
        mnist(tmp_path, "train", download=True)
    assert not list(tmp_path.iterdir())


def test_unknown_splits_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown split 'dev'; one of train, val, test"):
        digits("dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.0}, "greater than 0"),
        ({"val": 1.0}, "less than 1"),
        ({"use": 0.0}, "greater than 0"),
        ({"use": 1.1}, "less than or equal to 1"),
        ({"colour": True}, "Extra inputs"),
        ({"augment": [{"type": "crop"}]}, "crop without padding and size changes nothing"),
        ({"augment": [{"type": "affine", "scale": (1.2, 0.8)}]}, "scale goes from least to largest, got 1.2 to 0.8"),
        ({"augment": [{"type": "flip", "p": 1.5}]}, "less than or equal to 1"),
        ({"augment": [{"type": "swirl"}]}, "'crop', 'resized_crop', 'affine'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        digits("train", **options)


def test_the_real_mnist_is_complete(data_root: Path) -> None:
    splits = {split: mnist(data_root, split) for split in SPLITS}
    assert [len(dataset) for dataset in splits.values()] == [54_001, 5_999, 10_000]
    assert splits["test"][0].label == "7"
