"""Inputs to predict: files, texts, rows of tables and values in memory, as a dataset without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import BadSample, UserError
from ..data.capabilities import Textual
from ..data.dataset import Dataset
from ..data.sample import Sample
from ..data.tokenizer import SINGLE
from ..tasks.base import Collator
from ..tasks.batch import Batch, TowerTokens
from ..train.samples import BatchMaker
from .reading import TowerReader


@dataclass(frozen=True, eq=False)
class Input:
    """Something to predict.

    Args:
        name: of the sample, as it is written.
        sources: by tower, what is read: a path, a text or a value in memory. A tower may be missing.
        info: columns to write beside the prediction.
    """

    name: str
    sources: Mapping[str, Any]
    info: Mapping[str, str] = field(default_factory=dict)


class Inputs(Dataset):
    """Inputs as samples without labels.

    Args:
        readers: by tower.
        inputs: what to read.
    """

    def __init__(self, readers: Mapping[str, TowerReader], inputs: Sequence[Input]) -> None:
        self.readers, self.inputs = dict(readers), inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        """The raw values of an input.

        Raises:
            BadSample: a source is missing, broken or of another modality; named by the input.
        """
        sources = self.inputs[index].sources
        try:
            values = {tower: self._read(tower, source) for tower, source in sources.items()}
        except BadSample as error:
            raise BadSample(self.name(index), error.reason) from error
        return Sample(values[SINGLE] if SINGLE in self.readers else values, None, self.name(index))

    def _read(self, tower: str, source: Any) -> Any:
        reader = self.readers[tower]
        # The values of a sample that the task reads together, such as both texts of a pair.
        return tuple(map(reader.read, source)) if isinstance(source, tuple) else reader.read(source)

    def name(self, index: int) -> str:
        return self.inputs[index].name


class _Unlabelled(Collator):
    """Makes batches without targets."""

    def __init__(self, collator: Collator) -> None:
        super().__init__(collator.tokenizers, collator.classes)
        self.collator = collator

    def values(self, sample: Sample, tower: str) -> list[Any]:
        return self.collator.values(sample, tower)

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        return self.collator.towers(samples)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        return Batch(self.towers(samples), None, tuple(sample.name for sample in samples))


class SampleBatches(BatchMaker):
    """Makes batches that come with their samples.

    Args:
        dataset: the samples.
        collator: of the task.
        seed: of the run.
        values: return raw values too, not labels alone.
        labelled: make targets.
    """

    def __init__(
        self, dataset: Dataset, collator: Collator, seed: int, *, values: bool = False, labelled: bool = False
    ) -> None:
        super().__init__(dataset, collator if labelled else _Unlabelled(collator), seed)
        self.values = values

    def _returned(self, samples: list[tuple[int, Sample]]) -> tuple[tuple[int, Sample], ...]:
        if self.values:
            return tuple(samples)
        return tuple((index, Sample(None, sample.label, sample.name)) for index, sample in samples)


def inputs_of(values: Sequence[Any], readers: Mapping[str, TowerReader]) -> list[Input]:
    """Inputs of files, texts and values in memory.

    Args:
        values: for one tower, each a path, a text or a value; for several, each a mapping of those by tower.
        readers: by tower.

    Raises:
        UserError: a value is not a mapping by tower where there are several, or names a tower that does not exist.
    """
    inputs = []
    for number, value in enumerate(values):
        name = str(value) if isinstance(value, Path) or _is_path(value, readers) else f"input {number}"
        if SINGLE in readers:
            inputs.append(Input(name, {SINGLE: value}))
            continue
        if not isinstance(value, Mapping):
            raise UserError(f"inputs are mappings by tower ({', '.join(readers)}), got {value!r:.40}")
        if unknown := [tower for tower in value if tower not in readers]:
            raise UserError(f"{name} names a tower {unknown[0]!r}; the towers are {', '.join(readers)}")
        inputs.append(Input(name, {tower: source for tower, source in value.items() if source is not None}))
    return inputs


def _is_path(value: Any, readers: Mapping[str, TowerReader]) -> bool:
    return isinstance(value, str) and SINGLE in readers and not issubclass(readers[SINGLE].modality, Textual)
