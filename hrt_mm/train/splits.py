"""Listing the splits of a run's data, and warning of leakage between them."""

from __future__ import annotations

from ..core.errors import ConfigError
from ..data.dataset import DatasetConfig
from ..data.duplicates import Limits
from ..data.splits import Member, Splits, split_warnings

NAMES = ("train", "val", "test")


def listed_splits(data: DatasetConfig) -> Splits:
    """The samples of each split, as the dataset lists them or from the dataset of each split.

    Raises:
        ConfigError: the data is missing or broken.
    """
    listed = data.splits()
    if listed is not None:
        return listed
    members: dict[str, list[Member]] = {}
    warnings = []
    for split in NAMES:
        try:
            dataset = data.build(split)
        except ConfigError as error:
            if split == "train":
                raise
            warnings.append(f"there is no {split}: {error}")
            continue
        members[split] = [Member(dataset.name(index), dataset.class_of(index)) for index in range(len(dataset))]
    return Splits(members, f"fixed by data.type {data.type}", warnings=tuple(warnings))


def start_warnings(data: DatasetConfig) -> list[str]:
    """Warnings about the splits at the start of a run, for datasets that can list them quickly.

    Duplicate contents are searched for only where little has to be read.

    Raises:
        ConfigError: the data is missing or broken.
    """
    listed = data.splits() if data.lists_quickly else None
    return [f"data: {line}" for line in split_warnings(listed, Limits())] if listed is not None else []
