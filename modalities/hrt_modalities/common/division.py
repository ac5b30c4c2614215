"""Items divided into splits, and the properties that decide their splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.splits import Member, Splits

from .splits import SPLITS, check_classes, check_split
from .stratification import joined_units

Item = TypeVar("Item")


@dataclass(frozen=True)
class Traits:
    """The properties of an item that decide its split.

    Args:
        file: the path of a file, or a text; items with the same one stay together.
        label: its class, if it has one.
        group: items of a group stay together.
        others: other files of the item; items that share one stay together.
        key: is hashed with ``split_by: hash``; ``file`` when absent.
    """

    file: str
    label: str | None = None
    group: str | None = None
    others: tuple[str, ...] = ()
    key: str | None = None

    def keys(self) -> tuple[str, ...]:
        """Keys that it shares with the items that it stays together with."""
        group = () if self.group is None else (f"group:{self.group}",)
        return (f"file:{self.file}", *(f"file:{file}" for file in self.others), *group)


@dataclass(frozen=True)
class Division(Generic[Item]):
    """The items of each split, and how the splits were made.

    Args:
        splits: items by split.
        where: the data, for messages.
        made_by: how the splits were made, for reports.
        traits: of an item.
        shares: requested shares of splits that were made.
        warnings: for reports.
    """

    splits: dict[str, list[Item]]
    where: str
    made_by: str
    traits: Callable[[Item], Traits]
    shares: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def pick(self, split: str, what: str, checked: Sequence[str] = ("val", "test")) -> list[Item]:
        """The items of a split.

        Args:
            split: which one.
            what: the kind of items, for messages.
            checked: splits whose classes must be among those of train.

        Raises:
            ConfigError: train or the split is empty, or a split has a class that train has not.
        """
        check_split(split)
        for needed in ("train", split):
            if not self.splits.get(needed):
                counts = ", ".join(f"{name}: {len(items)}" for name, items in self.splits.items()) or "none"
                raise ConfigError(
                    f"{self.where} has no {what} for split {needed!r}; it has {counts}; add some, or split it otherwise"
                )
        labels = {name: {self.traits(item).label for item in items} for name, items in self.splits.items()}
        if None not in labels["train"]:
            classes = sorted(str(label) for label in labels["train"])
            for other in checked:
                labels_of_split = (label for label in labels.get(other, ()) if label is not None)
                check_classes(classes, labels_of_split, f"{other} of {self.where}")
        return self.splits[split]

    def listed(self, member: Callable[[Item, Traits], Member], root: Path | None) -> Splits:
        """The content of each split, for reports and checks."""
        members = {
            split: [member(item, self.traits(item)) for item in self.splits[split]]
            for split in SPLITS
            if split in self.splits
        }
        return Splits(members, self.made_by, self.shares, self.warnings, root)


def file_member(root: Path, title: str, traits: Traits) -> Member:
    """The entry of a file, or of a part of one, in a list of splits."""
    return Member(printable(title), traits.label, traits.group, os.path.join(root, traits.file))


def units_of(traits: Sequence[Traits]) -> list[str]:
    """The unit of each item: items of a unit stay together."""
    return joined_units([item.keys() for item in traits])


def trainable(tested: Sequence[bool], units: Sequence[str], labels: Sequence[str | None]) -> list[bool]:
    """The test items, without those of classes that would be missing from train."""
    totals, test_counts = (
        Counter(labels),
        Counter(label for label, is_test in zip(labels, tested, strict=True) if is_test),
    )
    untrained = {label for label, count in test_counts.items() if count == totals[label]}
    returned = {unit for unit, label in zip(units, labels, strict=True) if label in untrained}
    return [is_test and unit not in returned for is_test, unit in zip(tested, units, strict=True)]


def group_by_side(items: Sequence[Item], sides: Sequence[str], names: Iterable[str]) -> dict[str, list[Item]]:
    """Items by side."""
    by_side: dict[str, list[Item]] = {name: [] for name in names}
    for item, side in zip(items, sides, strict=True):
        by_side[side].append(item)
    return by_side


def without(splits: Mapping[str, list[Item]], others: Mapping[str, object]) -> dict[str, list[Item]]:
    """The splits except those of some names."""
    return {name: items for name, items in splits.items() if name not in others}
