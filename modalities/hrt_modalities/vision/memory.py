"""Datasets that are small enough to lie in memory as bytes: scikit-learn's digits, and torchvision's.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import MissingLibrary, needs_extra
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import TokenizerConfig

from ..common.splits import Part, check_split, stratified
from .augment import BatchAugmentation, ImageMixing, Transform, chain, mixing_of, of_images, sized
from .tokenizer import VisionConfig


class ImagesInMemory(Dataset):
    """Images as one byte tensor.

    Args:
        images: (N, C, H, W) uint8.
        labels: class of each.
        classes: their names.
        names: of the images, for messages.
        transform: augmentation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Sequence[int],
        classes: tuple[str, ...],
        names: Sequence[str],
        transform: Transform | None = None,
    ) -> None:
        self.images, self.labels, self.names, self.transform = images, labels, names, transform
        self.classes: tuple[str, ...] = classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        """An image with the name of its class."""
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return Sample(image, self.classes[self.labels[index]], self.names[index])

    def name(self, index: int) -> str:
        """The index of the image in the dataset."""
        return self.names[index]

    def class_of(self, index: int) -> str:
        """The name of the image's class."""
        return self.classes[self.labels[index]]

    def label_of(self, index: int) -> str:
        """The name of the image's class."""
        return self.class_of(index)

    def shape(self, index: int) -> Sequence[int]:
        """(C, H, W), before augmentation."""
        return tuple(self.images.shape[1:])


class MemoryConfig(DatasetConfig):
    """Settings of all datasets in memory."""

    val: Part = 0.1
    """Fraction of the training images of each class for validation, always the same ones."""
    use: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the remaining training images of each class that is used, to learn from few labels."""
    augment: tuple[BatchAugmentation, ...] = ()
    """Transforms of training images, in order; ``mixup`` and ``cutmix`` mix the images of a batch after all others,
    and one of them is chosen at random for each batch."""

    def mixing(self) -> ImageMixing | None:
        """What mixes the images of training batches."""
        return mixing_of(self.augment)

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VisionConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    @abstractmethod
    def load(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """Images (N, C, H, W) uint8, labels and class names of the training or the test set."""

    def build(self, split: str) -> ImagesInMemory:
        """The images of a split.

        Raises:
            ConfigError: there is no such split, or the files are missing or broken.
        """
        check_split(split)
        images, labels, classes = self.load(split != "test")
        targets = torch.as_tensor(labels)
        chosen = torch.arange(len(targets))
        if split != "test":
            train, val = stratified(targets, self.val, seed=0)
            if split == "train" and self.use < 1:
                train = train[stratified(targets[train], self.use, seed=0)[1]]
            chosen = train if split == "train" else val
        indices = chosen.tolist()
        source = "test" if split == "test" else "train"
        return ImagesInMemory(
            images[chosen],
            [labels[index] for index in indices],
            classes,
            [f"{self.type}/{source}/{index}" for index in indices],
            chain(of_images(self.augment)) if split == "train" else None,
        )


class DigitsConfig(MemoryConfig):
    """scikit-learn's 1,797 handwritten digits: real scans of 8x8 pixels that come inside the package.

    A fixed fifth of each class is the test set.
    """

    type: Literal["digits"]

    def load(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The images, with their 17 shades spread over a byte."""
        with needs_extra("vision"):
            from sklearn.datasets import load_digits

        digits = load_digits()
        chosen = stratified(digits.target, 0.2, seed=0)[not train]
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
        labels: list[int] = torch.from_numpy(digits.target)[chosen].tolist()
        return images[chosen, None], labels, tuple("0123456789")


class TorchvisionConfig(MemoryConfig):
    """Settings of torchvision's datasets, in torchvision's layout and with the official test set."""

    root: Path
    """The folder that torchvision calls root."""
    download: bool = False
    """Download missing files."""

    def load(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The training or test set.

        Raises:
            ConfigError: the files are missing or broken, or cannot be fetched.
        """
        try:
            return self._read(train)
        except FileNotFoundError as error:
            if not self.download:
                raise ConfigError(
                    f"data.root {self.root} has no {error.filename or error}; set data.download: true, or data.root to "
                    f"the folder that torchvision put {self.type} in"
                ) from error
        self._fetch()
        try:
            return self._read(train)
        except FileNotFoundError as error:
            raise ConfigError(
                f"data.root {self.root} has only a part of {self.type}: {error.filename or error} is missing; delete "
                "that part, and it is fetched whole"
            ) from error

    def _read(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        try:
            return self.read(train)
        except (FileNotFoundError, MissingLibrary):
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.type} in {self.root} is broken ({error}); delete it and fetch it again"
            ) from error

    def _fetch(self) -> None:
        """Downloads to a temporary folder and moves complete files, as runs may be interrupted or parallel."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".fetch-", dir=self.root) as folder:
                self.fetch(Path(folder))
                for path in Path(folder).iterdir():
                    if not (self.root / path.name).exists():
                        path.replace(self.root / path.name)
        except MissingLibrary:
            raise
        except Exception as error:
            raise ConfigError(f"{self.type} cannot be fetched to data.root {self.root}: {error}") from error

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The training or test set from disk."""

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Downloads the files, in torchvision's layout."""


class MnistConfig(TorchvisionConfig):
    """60,000 + 10,000 handwritten digits, 28x28 grey."""

    type: Literal["mnist"]

    def read(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The raw files."""
        return *_read_idx(self.root / "MNIST" / "raw", train), tuple("0123456789")

    def fetch(self, root: Path) -> None:
        """Downloads the files, in torchvision's layout."""
        with needs_extra("vision"):
            from torchvision.datasets import MNIST

        MNIST(root, download=True)


class FashionMnistConfig(TorchvisionConfig):
    """60,000 + 10,000 pictures of clothes, 28x28 grey."""

    type: Literal["fashion_mnist"]

    def read(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The raw files."""
        with needs_extra("vision"):
            from torchvision.datasets import FashionMNIST

        return *_read_idx(self.root / "FashionMNIST" / "raw", train), tuple(FashionMNIST.classes)

    def fetch(self, root: Path) -> None:
        """Downloads the files, in torchvision's layout."""
        with needs_extra("vision"):
            from torchvision.datasets import FashionMNIST

        FashionMNIST(root, download=True)


class Cifar10Config(TorchvisionConfig):
    """50,000 + 10,000 photographs, 32x32 RGB.

    torchvision reads these files, and refuses those whose checksums are not the published ones before it does.
    """

    type: Literal["cifar10"]

    def read(self, train: bool) -> tuple[Tensor, Sequence[int], tuple[str, ...]]:
        """The batches."""
        with needs_extra("vision"):
            from torchvision.datasets import CIFAR10

        folder = self.root / CIFAR10.base_folder
        if not folder.is_dir():
            raise FileNotFoundError(2, "no such folder", str(folder))
        dataset = CIFAR10(self.root, train)
        images = torch.from_numpy(np.ascontiguousarray(rearrange(dataset.data, "n h w c -> n c h w")))
        return images, dataset.targets, tuple(dataset.classes)

    def fetch(self, root: Path) -> None:
        """Downloads the files, in torchvision's layout."""
        with needs_extra("vision"):
            from torchvision.datasets import CIFAR10

        CIFAR10(root, download=True)


def _read_idx(folder: Path, train: bool) -> tuple[Tensor, list[int]]:
    with needs_extra("vision"):
        from torchvision.datasets.mnist import read_image_file, read_label_file

    prefix = "train" if train else "t10k"
    images = read_image_file(str(folder / f"{prefix}-images-idx3-ubyte"))
    labels = read_label_file(str(folder / f"{prefix}-labels-idx1-ubyte"))
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    return images[:, None], labels.tolist()
