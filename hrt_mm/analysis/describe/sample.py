"""A sample of a run's data whose size is typical."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch

from ...core.errors import BadSample, ConfigError
from ...core.tokens import Tokens
from ...data.dataset import Dataset
from ...data.sample import Sample
from ...data.stream import StreamedDataset
from ...data.tokenizer import SINGLE, Tokenizer
from ...train.build import build_dataset

if TYPE_CHECKING:
    from ...config import RunConfig

TRIED = 16
"""Number of samples to read."""


def typical_sample(config: RunConfig, tokenizer: Tokenizer, tower: str = SINGLE) -> Tokens:
    """The raw tokens of the training sample of median size, among a few evenly spaced ones; of a stream, the first.

    Args:
        config: of the run.
        tokenizer: of the tower.
        tower: whose part of each sample is read. Samples without it are passed over.

    Raises:
        ConfigError: the data cannot be read; names the option to give a size instead.
    """
    try:
        dataset = build_dataset(config, "train")
    except ConfigError as error:
        raise ConfigError(f"{error} (or give the size of a sample: --shape 1024, --shape 32x32)") from error
    candidates = []
    readers = _readers(dataset)
    # Samples may be augmented at random, and describing draws nothing from the caller's generator.
    with torch.random.fork_rng(devices=[]):
        for read in readers:
            try:
                value = read().value
                if tower != SINGLE:
                    value = value.get(tower)
                if value is not None:
                    candidates.append(tokenizer([value]))
            except BadSample:
                continue
    if not candidates:
        raise ConfigError(f"none of {len(readers)} training samples can be read; see the data, or give --shape")
    return sorted(candidates, key=lambda tokens: tokens.spans.total)[len(candidates) // 2]


def _readers(dataset: Dataset) -> list[Callable[[], Sample]]:
    """Functions that read the samples to try."""
    if isinstance(dataset, StreamedDataset):
        return [partial(dataset.read, number, row) for number, row in enumerate(islice(dataset.open(), TRIED))]
    positions = torch.linspace(0, len(dataset) - 1, min(TRIED, len(dataset))).tolist()
    return [partial(dataset.__getitem__, index) for index in sorted({round(position) for position in positions})]
