"""Hard negatives: the wrong answers that a trained run ranks highest, for another training.

Answers that score nearly as high as the right one are often right too, though the data does not say so. They are left
out by a margin relative to the score of the right answer (NV-Retriever, arXiv 2407.15831).

Shapes: N samples, D width.
"""

from __future__ import annotations

import csv
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.errors import BadSample, UserError
from ..data.atomic_files import explained, replace_file
from ..data.dataset import Dataset
from ..data.sample import Sample
from ..train.negatives import COLUMNS
from .collection import Collection, writing
from .embed import Embedder
from .index import Index
from .rows import Row
from .segment import Hit

log = logging.getLogger(__name__)

BATCH = 128
"""Samples that are embedded, and searched with, at a time."""
CANDIDATES = 50
"""Answers that are looked at for each query."""
MARGIN = 0.95
"""Share of the score of the right answer below which an answer is taken to be wrong."""
COUNT = 4
"""Negatives of a sample in each direction."""


@dataclass(frozen=True)
class _Side:
    """What a sample is in a tower."""

    vector_D: np.ndarray
    content: int


@dataclass(frozen=True)
class _Embedded:
    """A sample with what each tower reads of it."""

    group: int
    sides: Mapping[str, _Side]


def mine(
    embedder: Embedder,
    split: str,
    file: Path,
    *,
    count: int = COUNT,
    candidates: int = CANDIDATES,
    margin: float = MARGIN,
) -> int:
    """Writes a table of hard negatives of a split's samples, in all directions that training compares.

    A negative is of another label than the query, and its content in the searched tower is not that of the query's
    own answer, nor is its content in the query's tower that of the query.

    Args:
        embedder: the model.
        split: of the run's data.
        file: the table to write, TSV.
        count: maximum number of negatives of a sample in each direction.
        candidates: answers that are looked at for each query.
        margin: negatives score less than this share of the score of the right answer.

    Returns:
        The number of negatives.

    Raises:
        UserError: an option is out of range, no sample can be embedded, or the file cannot be written.
    """
    if count < 1 or candidates < count or not 0 < margin <= 1:
        raise UserError(
            f"count={count}, candidates={candidates}, margin={margin:g}: count is at least 1, "
            "candidates at least count, and margin is above 0 and at most 1"
        )
    directions = [way for pair in embedder.contrastive.pairs for way in (pair, pair[::-1])]
    dataset = embedder.dataset(split)
    samples = dict(_embedded(embedder, dataset))
    if not samples:
        raise UserError(f"none of the {len(dataset)} samples of the {split} split can be embedded")
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        index = _index(embedder, samples, Path(folder))
        numbers = list(samples)
        for first in range(0, len(numbers), BATCH):
            by_sample: dict[int, list[tuple[object, ...]]] = {number: [] for number in numbers[first : first + BATCH]}
            for query, answer in directions:
                both = [number for number in by_sample if {query, answer} <= samples[number].sides.keys()]
                ranked = _ranked(index, [samples[number].sides[query] for number in both], answer, candidates)
                for number, hits in zip(both, ranked, strict=True):
                    for negative, score, right in _negatives(hits, samples, number, (query, answer), margin)[:count]:
                        names = (dataset.name(number), dataset.name(negative))
                        scores = (f"{score:.6f}", f"{right:.6f}")
                        by_sample[number].append((number, negative, *names, query, answer, *scores))
            for rows in by_sample.values():
                writer.writerows(rows)
                total += len(rows)
    with explained(file):
        replace_file(file, lines.getvalue().encode("utf-8", "backslashreplace"))
    return total


def _embedded(embedder: Embedder, dataset: Dataset) -> Iterator[tuple[int, _Embedded]]:
    for first in range(0, len(dataset), BATCH):
        block: list[tuple[int, Sample]] = []
        for index in range(first, min(first + BATCH, len(dataset))):
            try:
                block.append((index, dataset[index]))
            except BadSample as error:
                log.warning("left out: %s", error)
        yield from _encoded(embedder, block)


def _encoded(embedder: Embedder, block: list[tuple[int, Sample]]) -> Iterator[tuple[int, _Embedded]]:
    """Embeds a block of samples, or one by one if any of them is unusable."""
    if not block:
        return
    config, run = embedder.run.config, embedder.run
    try:
        batch = config.task.collator(config.models, run.tokenizers, run.classes)([sample for _, sample in block])
        with torch.no_grad():
            vectors = {tower: embedder.contrastive.vectors(tower, part).numpy() for tower, part in batch.towers.items()}
    except BadSample as error:
        if len(block) == 1:
            log.warning("left out: %s", error)
            return
        for item in block:
            yield from _encoded(embedder, [item])
        return
    sides: list[dict[str, _Side]] = [{} for _ in block]
    for tower, part in batch.towers.items():
        rows = zip(part.samples.tolist(), vectors[tower], part.contents.tolist(), strict=True)
        for position, vector_D, content in rows:
            sides[position][tower] = _Side(vector_D, content)
    assert batch.groups is not None
    for (index, _), group, side in zip(block, batch.groups.tolist(), sides, strict=True):
        yield index, _Embedded(group, side)


def _index(embedder: Embedder, samples: Mapping[int, _Embedded], folder: Path) -> Index:
    with writing(folder / "vectors", embedder.model) as writer:
        for number, sample in samples.items():
            for tower, side in sample.sides.items():
                writer.add(side.vector_D[None], [Row(str(number), tower)])
    return Index.build(folder / "index", [Collection(folder / "vectors")])


def _ranked(index: Index, queries: Sequence[_Side], answer: str, candidates: int) -> list[list[Hit]]:
    """The best answers of each query in a tower."""
    if not queries:
        return []
    return index.search_many(np.stack([query.vector_D for query in queries]), candidates, tower=answer)


def _negatives(
    hits: Sequence[Hit], samples: Mapping[int, _Embedded], number: int, direction: tuple[str, str], margin: float
) -> list[tuple[int, float, float]]:
    """The negatives among the hits of a query, best first: their number, their score, and that of the right answer."""
    query, answer = direction
    sample = samples[number]
    query_side, right = sample.sides[query], sample.sides[answer]
    right_score = float(query_side.vector_D @ right.vector_D)
    limit = right_score - (1 - margin) * abs(right_score)
    negatives = []
    for hit in hits:
        other = samples[int(hit.row.id)]
        same = other.group == sample.group or other.sides[answer].content == right.content
        twin = query in other.sides and other.sides[query].content == query_side.content
        if hit.score < limit and not (same or twin):
            negatives.append((int(hit.row.id), hit.score, right_score))
    return negatives
