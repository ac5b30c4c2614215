"""Deterministic splits: by class within a fixed set, and by a hash of the name where files may come and go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hrt_mm.core.errors import ConfigError

from .stratification import position

SPLITS = ("train", "val", "test")
Part = Annotated[float, Field(gt=0, lt=1)]


def check_split(split: str) -> None:
    """Rejects a split that no dataset has.

    Raises:
        ConfigError: it is not ``train``, ``val`` or ``test``.
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")


def stratified(labels: Sequence[int] | Tensor, part: float, seed: int) -> tuple[Tensor, Tensor]:
    """Holds out the same part of every class, the same one each time.

    Args:
        labels: class of each sample.
        part: fraction that is held out; at least one sample per class.
        seed: of the choice.

    Returns:
        Indices that stay and indices that are held out, both ascending.
    """
    classes = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(classes), dtype=torch.bool)
    for label in classes.unique():
        indices = (classes == label).nonzero().squeeze(1)
        order = torch.randperm(len(indices), generator=generator)
        held_out[indices[order[: max(1, round(len(indices) * part))]]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def hash_split(name: str, val: float, test: float, seed: int = 0) -> str:
    """The split of a name, independent of other names.

    Args:
        name: of the sample.
        val: fraction of ``val``.
        test: fraction of ``test``.
        seed: of the hash.
    """
    value = position(name, seed)
    if value < test:
        return "test"
    return "val" if value < test + val else "train"


def check_classes(classes: Sequence[str], labels: Iterable[str], where: str) -> None:
    """Checks that all classes of a split are in train.

    Raises:
        ConfigError: some are not; names them.
    """
    extra = sorted(set(labels) - set(classes))
    if extra:
        raise ConfigError(
            f"{where} has classes that train has not: {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}; "
            "train must have a sample of every class"
        )
