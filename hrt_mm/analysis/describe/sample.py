"""A sample of a run's data whose size is typical."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...core.errors import BadSample, ConfigError
from ...core.tokens import Tokens
from ...data.tokenizer import Tokenizer
from ...train.build import build_dataset

if TYPE_CHECKING:
    from ...config import RunConfig

TRIED = 16
"""Samples that are looked at."""


def typical_sample(config: RunConfig, tokenizer: Tokenizer) -> Tokens:
    """The raw tokens of the training sample of median size, among a few that lie evenly over the set.

    Raises:
        ConfigError: the data cannot be read; says how to go without.
    """
    try:
        dataset = build_dataset(config, "train")
    except ConfigError as error:
        raise ConfigError(f"{error} (or give the size of a sample: --shape 1024, --shape 32x32)") from error
    length = len(dataset)
    found = []
    with torch.random.fork_rng(devices=[]):
        for index in sorted({round(place) for place in torch.linspace(0, length - 1, min(TRIED, length)).tolist()}):
            try:
                found.append(tokenizer([dataset[index].value]))
            except BadSample:
                continue
    if not found:
        raise ConfigError(f"none of {min(TRIED, length)} training samples can be read; see the data, or give --shape")
    return sorted(found, key=lambda tokens: tokens.spans.total)[len(found) // 2]
