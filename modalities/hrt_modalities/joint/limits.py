"""Limits of reading, passed on to the datasets that a sample of several towers is made of."""

from __future__ import annotations

from collections.abc import Mapping

from hrt_mm.data.dataset import Dataset
from hrt_mm.data.tokenizer import Tokenizer


def limit_towers(parts: Mapping[str, Dataset], tokenizers: Mapping[str, Tokenizer]) -> None:
    """Limits what is read for each tower by the tokenizer of that tower.

    Args:
        parts: by tower, the dataset that reads it. Those that have no tower are left alone.
        tokenizers: of the run, by tower.
    """
    for tower, values in parts.items():
        if tower in tokenizers:
            values.limit(tokenizers[tower])
