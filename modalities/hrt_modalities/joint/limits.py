"""Limits of reading, passed on to the datasets that a sample of several towers is made of."""

from __future__ import annotations

from collections.abc import Mapping

from hrt_mm.data.dataset import Dataset
from hrt_mm.data.tokenizer import Tokenizer, Towers


def limit_towers(parts: Mapping[str, Dataset], tokenizer: Tokenizer) -> None:
    """Limits what is read for each tower by the tokenizer of that tower.

    Args:
        parts: by tower, the dataset that reads it. Those that the tokenizer has no tower for are left alone.
        tokenizer: of the run, a :class:`~hrt_mm.tasks.joint.JointTokenizer`.
    """
    assert isinstance(tokenizer, Towers)
    for tower, values in parts.items():
        if tower in tokenizer.towers:
            values.limit(tokenizer.towers[tower])
