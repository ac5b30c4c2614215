"""The contract of datasets: raw samples by split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ..core.component import Component
from ..core.errors import ConfigError
from .sample import Sample
from .splits import Splits
from .tokenizer import SINGLE, Tokenizer, TokenizerConfig


class Dataset(TorchDataset[Sample], ABC):
    """A map-style dataset of raw samples. ``classes`` names the labels where they are classes."""

    classes: tuple[str, ...] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample. Random augmentation draws from torch's generator, which the loader seeds for each sample.

        Raises:
            BadSample: the sample cannot be read; the loader skips, counts and names it.
        """

    def name(self, index: int) -> str:
        """What a sample is called, without reading it."""
        return f"sample {index}"

    def class_of(self, index: int) -> str | None:
        """The class of a sample, without reading it, where that is known."""
        return None

    def label_of(self, index: int) -> Any:
        """The label of a sample; datasets that can do not read its value.

        Raises:
            BadSample: the sample must be read for it, and cannot be.
        """
        return self[index].label

    def contents(self, index: int) -> Mapping[str, Path | str]:
        """The files and texts that a sample is read from, by extension, to be packed into a shard.

        Raises:
            ConfigError: the samples are no whole files.
            BadSample: a file is missing or lies outside of the dataset's folder.
        """
        raise ConfigError(f"{type(self).__name__} has no files to pack")

    def limit(self, tokenizer: Tokenizer) -> None:
        """Takes over what the tokenizer refuses, so that a file that is too long need not be read whole to see it.

        Does nothing by default; called once, before a sample is read.

        Args:
            tokenizer: of the samples.
        """

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Does the same for the tokenizers of a run, by tower. Datasets of several modalities pass them on."""
        if SINGLE in tokenizers:
            self.limit(tokenizers[SINGLE])

    def shape(self, index: int) -> Sequence[int]:
        """The raw shape of a sample without decoding it, where batches are made by tokens."""
        raise ConfigError(f"{type(self).__name__} does not know shapes in advance; use train.batch_size")

    def describe(self, index: int) -> Mapping[str, str]:
        """What a search shows of a sample beside its pictures and sounds: short texts by name."""
        return {}

    def file_of(self, index: int, tower: str) -> Path | None:
        """The file that the value of a tower is read from, for datasets that read files."""
        return None


class Mixing(Protocol):
    """Mixes the samples of a batch, and their classes as they are mixed. It is pickled for workers."""

    def __call__(
        self, values: Sequence[Any], names: Sequence[str], target_B: Tensor, classes: int
    ) -> tuple[Sequence[Any], Tensor]:
        """The mixed values, and (B, K) the shares of their classes.

        Args:
            values: of the samples.
            names: of the samples, for messages.
            target_B: indices of their classes.
            classes: how many there are.

        Raises:
            BadSample: a value cannot be mixed with the others.
        """


class DatasetConfig(Component):
    """Configuration of a dataset; a subclass fixes ``type``."""

    type: str
    lists_quickly: ClassVar[bool] = True
    """Whether :meth:`splits` takes no longer than to walk a folder or read a table. A run looks at it then when it
    starts."""
    before: ClassVar[Mapping[str, Any]] = {}
    """What the absence of a key stands for in the configuration that a run wrote before the key existed, where that is
    not the key's default: such a run keeps its data."""
    parts: ClassVar[tuple[str, ...]] = (SINGLE,)
    """Of a dataset of several modalities, what the values of its samples may have; see :meth:`towers`."""

    def towers(self) -> tuple[str, ...]:
        """What the values of its samples may have: ``parts``, unless the configuration itself names them."""
        return self.parts

    supplies: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """By part, the boundaries that :meth:`prepare` gives to values from bare files."""

    def prepare(self, part: str, value: Any) -> Any:
        """What a query's raw value must go through to be as the dataset's own are; nothing, where they are plain.

        Args:
            part: one of :meth:`towers`.
            value: what the modality reads from a file, or a text.
        """
        return value

    def build(self, split: str) -> Dataset:
        """The samples of a split: ``train``, ``val`` or ``test``.

        Raises:
            ConfigError: there is no such split or no such data; says what there is.
        """
        raise NotImplementedError(type(self))

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration with what it leaves to the modality filled in, such as the size of crops."""
        return self

    def suited_towers(self, modalities: Mapping[str, TokenizerConfig]) -> DatasetConfig:
        """The same for the modalities of a run, by tower. Datasets of several modalities leave nothing to them."""
        return self.suited(modalities[SINGLE]) if SINGLE in modalities else self

    def mixing(self) -> Mixing | None:
        """What mixes the samples of training batches with each other; nothing by default."""
        return None

    def plain(self, split: str) -> Dataset:
        """The samples of a split without random augmentation, for collections to be searched."""
        return self.build(split)

    def splits(self) -> Splits | None:
        """What is in each split, for datasets that can list it without reading their samples.

        Raises:
            ConfigError: as :meth:`build`.
        """
        return None
