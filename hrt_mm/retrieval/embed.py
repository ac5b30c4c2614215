"""Vectors from a trained run: of the samples of its data, of files, and of queries.

Shapes: N values, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadSample, ConfigError, UserError
from ..modality import Dataset, Modality, modalities
from ..sample import Sample
from ..tasks.contrastive import Contrastive
from ..tasks.joint import JointTokenizer, Part, contents
from ..train.evaluate import TrainedRun, load_task
from ..train.precision import numerics
from .collection import Writer, writing
from .rows import Model, Row

log = logging.getLogger(__name__)

BATCH = 128
MAX_QUERY_BYTES = 64 << 20
"""A larger file is no query."""


@dataclass(frozen=True)
class Embedder:
    """A trained run that embeds.

    Args:
        run: with its weights.
        model: which model that is.
    """

    run: TrainedRun
    model: Model

    @classmethod
    def of(cls, folder: Path, which: str | int = "best", overrides: Sequence[str] = ()) -> Embedder:
        """The best weights of a run.

        Raises:
            ConfigError: its task gives no vectors to compare.
            CheckpointError: it has no such checkpoint.
        """
        run = load_task(Path(folder), which, overrides=overrides)
        if not isinstance(run.task, Contrastive):
            raise ConfigError(f"{folder} was trained on task {run.config.task.type}; embedding needs task contrastive")
        files = run.checkpoint.state["files"]
        weights = files.get("ema.safetensors") or files["model.safetensors"]
        return cls(run, Model(weights["sha256"], run.task.dim, str(Path(folder).resolve())))

    @property
    def task(self) -> Contrastive:
        """The model."""
        assert isinstance(self.run.task, Contrastive)
        return self.run.task

    @property
    def towers(self) -> tuple[str, ...]:
        """The parts that it can embed."""
        return self.task.towers

    def modality(self, tower: str) -> type[Modality]:
        """The modality of a tower.

        Raises:
            UserError: there is no such tower; names those there are.
        """
        assert self.run.config.towers is not None
        if tower not in self.run.config.towers:
            raise UserError(f"the model has no {tower!r}; it reads {', '.join(self.towers)}")
        return modalities()[self.run.config.towers[tower].modality.type]

    def vectors(self, tower: str, values: Sequence[Any]) -> np.ndarray:
        """(N, D) vectors of raw values.

        Raises:
            BadSample: a value cannot be used.
            UserError: there is no such tower.
        """
        self.modality(tower)
        tokenizer = self.run.tokenizer
        assert isinstance(tokenizer, JointTokenizer)
        found = [np.zeros((0, self.model.dim), np.float32)]
        options = self.run.config.train
        with torch.no_grad(), numerics(torch.device("cpu"), options.num_threads):
            for first in range(0, len(values), BATCH):
                tokens = tokenizer.towers[tower](list(values[first : first + BATCH]))
                part = Part(tokens, torch.arange(len(tokens)), contents(tokens))
                found.append(self.task.vectors(tower, part).numpy())
        return np.concatenate(found)

    def query(self, tower: str, source: str | Path) -> np.ndarray:
        """(D,) the vector of a text, or of a file.

        Raises:
            BadSample: the file is too large or cannot be read, or is of another modality.
            UserError: there is no such tower.
        """
        return self.vectors(tower, [self.read(tower, source)])[0]

    def read(self, tower: str, source: str | Path) -> Any:
        """A text, or what a file holds, as the run's data has it.

        Raises:
            BadSample: it cannot be used as a query.
            UserError: there is no such tower.
        """
        modality = self.modality(tower)
        if isinstance(source, Path):
            if not source.is_file():
                raise BadSample(str(source), "no such file")
            if (size := source.stat().st_size) > MAX_QUERY_BYTES:
                raise BadSample(source.name, f"has {size:,} bytes; a query may have {MAX_QUERY_BYTES:,}")
            return self.run.config.data.prepare(tower, modality.read(source))
        if not source.strip():
            raise BadSample("the query", "is empty; type some words")
        return self.run.config.data.prepare(tower, source)


def embed_split(
    embedder: Embedder, split: str, parts: Sequence[str], folder: Path, *, media: bool = False
) -> dict[str, int]:
    """Writes a collection of the samples of a split.

    Args:
        embedder: the model.
        split: of the run's data.
        parts: which of their modalities.
        folder: of the collection, which must not be there.
        media: keep pictures and sounds of the samples, for search pages to show.

    Returns:
        How many vectors there are of each part.

    Raises:
        UserError: a part is unknown, or nothing can be read.
    """
    for part in parts:
        embedder.modality(part)
    dataset = embedder.run.config.data.plain(split)
    with writing(folder, embedder.model) as writer:
        samples = _samples(dataset)
        while block := list(islice(samples, BATCH)):
            for part in parts:
                _write(embedder, writer, part, [item for item in block if item[1].value.get(part) is not None], media)
        counts = dict(writer.counts)
    if not counts:
        raise UserError(f"none of the {len(dataset)} samples of the {split} split can be embedded")
    return counts


def embed_files(embedder: Embedder, part: str, files: Sequence[Path], folder: Path, *, media: bool = False) -> int:
    """Writes a collection of files; those that cannot be read are left out, with a warning.

    Raises:
        UserError: none can be read, or the part is unknown.
    """
    modality = embedder.modality(part)
    with writing(folder, embedder.model) as writer:
        for path in files:
            try:
                value = embedder.read(part, path)
                vectors = embedder.vectors(part, [value])
            except BadSample as error:
                log.warning("left out: %s", error)
                continue
            shown = modality.shown(value) if media else None
            file = writer.media(*shown) if shown else ""
            writer.add(vectors, [Row(str(path), part, file=file, info={"file": str(path)})])
        count = len(writer.keys)
    if not count:
        raise UserError(f"none of {len(files)} files can be embedded as {part}")
    return count


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those within folders that are, in the order of their names.

    Raises:
        UserError: something is not there.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is not there")
        found += sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


Item = tuple[int, Sample, dict[str, str]]


def _samples(dataset: Dataset) -> Iterator[Item]:
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
        except BadSample as error:
            log.warning("left out: %s", error)
            continue
        yield index, sample, dict(dataset.describe(index)) or {"name": sample.name}


def _write(embedder: Embedder, writer: Writer, part: str, items: list[Item], media: bool) -> None:
    """Embeds a block; one by one where a sample of it cannot be used."""
    if not items:
        return
    try:
        vectors = embedder.vectors(part, [sample.value[part] for _, sample, _ in items])
    except BadSample as error:
        if len(items) == 1:
            log.warning("left out: %s: %s", items[0][1].name, error.reason)
            return
        for item in items:
            _write(embedder, writer, part, [item], media)
        return
    modality = embedder.modality(part)
    rows = []
    for index, sample, info in items:
        value = sample.value[part]
        shown = modality.shown(value) if media else None
        text = {"text": value} if isinstance(value, str) else {}
        file = writer.media(*shown) if shown else ""
        rows.append(Row(sample.name or f"sample {index}", part, file=file, info=text | info))
    writer.add(vectors, rows)
