"""Hard negatives of training samples, as ``hrt-mm mine`` writes them: each sample brings some into its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigError
from ..data.dataset import Dataset
from ..data.tables import rows_of
from .seeding import mix

COLUMNS = ("sample", "negative", "sample_name", "negative_name", "query", "answer", "score", "right_score")
"""Columns of the table. Samples are given by their number in the training split."""
KEY = "task.negatives"


@dataclass(frozen=True)
class Negatives:
    """Hard negatives by sample.

    Args:
        by_sample: numbers of the negatives of each sample that has some.
        count: how many of them a sample brings into its batch.
        seed: of the run.
    """

    by_sample: Mapping[int, tuple[int, ...]]
    count: int
    seed: int

    @classmethod
    def read(cls, file: Path, dataset: Dataset, count: int, seed: int) -> Negatives:
        """Reads a table.

        Args:
            file: the table.
            dataset: the training split.
            count: negatives that a sample brings into its batch.
            seed: of the run.

        Raises:
            ConfigError: the table is missing or malformed, or was mined from other data; names the line.
        """
        by_sample: dict[int, list[int]] = {}
        for line, row in rows_of(file, KEY):
            sample, negative = (
                _number(row, column, f"{KEY} {file}, line {line}", dataset) for column in ("sample", "negative")
            )
            negatives = by_sample.setdefault(sample, [])
            if negative not in negatives and negative != sample:
                negatives.append(negative)
        if not by_sample:
            raise ConfigError(f"{KEY} {file} has no rows; mine with a larger --margin, or drop the key")
        return cls({sample: tuple(negatives) for sample, negatives in by_sample.items()}, count, seed)

    def beside(self, indices: Sequence[int], epoch: int) -> list[int]:
        """The negatives that come into a batch, none of them twice; those of a sample are drawn anew each epoch.

        Args:
            indices: the samples of the batch.
            epoch: of the batch.
        """
        present, added = set(indices), []
        for index in indices:
            negatives = self.by_sample.get(index, ())
            generator = torch.Generator().manual_seed(mix(self.seed, "negatives", epoch, index))
            for position in torch.randperm(len(negatives), generator=generator).tolist()[: self.count]:
                if negatives[position] not in present:
                    present.add(negatives[position])
                    added.append(negatives[position])
        return added


def _number(row: Mapping[str, Any], column: str, where: str, dataset: Dataset) -> int:
    try:
        number = int(row[column])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{where}: column {column!r} is {row.get(column)!r}; it must be the number of a training sample, as "
            "`hrt-mm mine` writes it"
        ) from None
    name = row.get(f"{column}_name")
    if not 0 <= number < len(dataset) or (name is not None and name != dataset.name(number)):
        raise ConfigError(
            f"{where}: sample {number} ({name}) is not in the training split, which has {len(dataset)} samples; it was "
            "mined from other data: run `hrt-mm mine` on a run of this data"
        )
    return number
