"""Deterministic splits: by class within a fixed set, and by a hash of the name where files may come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from hrt_mm.errors import ConfigError

SPLITS = ("train", "val", "test")
Part = Annotated[float, Field(gt=0, lt=1)]


class Named(Protocol):
    """What can be split: it has a name that stays."""

    @property
    def name(self) -> str: ...


class Labelled(Named, Protocol):
    """What has a class, maybe."""

    @property
    def label(self) -> str | None: ...


Item = TypeVar("Item", bound=Labelled)
AnyItem = TypeVar("AnyItem", bound=Named)


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
        part: what is held out, at least one sample a class.
        seed: chooses which.

    Returns:
        Places that stay and places that are held out, both ascending.
    """
    classes = torch.as_tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(classes), dtype=torch.bool)
    for label in classes.unique():
        places = (classes == label).nonzero().squeeze(1)
        order = torch.randperm(len(places), generator=generator)
        held[places[order[: max(1, round(len(places) * part))]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def hash_split(name: str, val: float, test: float) -> str:
    """The split of a name, whatever other names there are.

    Args:
        name: of the sample.
        val: part that goes to ``val``.
        test: part that goes to ``test``.
    """
    place = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def check_classes(classes: Sequence[str], found: Iterable[str], where: str) -> None:
    """Checks that a split has no class that training never sees.

    Raises:
        ConfigError: it has; names the classes.
    """
    extra = sorted(set(found) - set(classes))
    if extra:
        raise ConfigError(
            f"{where} has classes that train has not: {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}; "
            "train must have a sample of every class"
        )


def by_hash(items: Iterable[AnyItem], val: float, test: float) -> dict[str, list[AnyItem]]:
    """The splits of items by their names, where the data has no splits. Parts of one file stay together."""
    splits: dict[str, list[AnyItem]] = {split: [] for split in SPLITS}
    for item in items:
        splits[hash_split(item.name, val, test)].append(item)
    return splits


def chosen(
    split: str, found: Mapping[str, list[Item]], val: float, where: str, what: str
) -> tuple[list[Item], tuple[str, ...] | None]:
    """The items of a split and the classes of train; ``val`` is split off train where it is missing.

    Args:
        split: which one.
        found: the items of all splits.
        val: part of train that goes to ``val`` where that is missing.
        where: the data, for messages.
        what: what items are, for messages.

    Raises:
        ConfigError: the split or train has no item, or a split has a class that train has not.
    """
    splits = dict(found)
    if not splits.get("val") and splits.get("train"):
        parts = by_hash(splits["train"], val, 0.0)
        splits["train"], splits["val"] = parts["train"], parts["val"]
    if not splits.get("train"):
        raise ConfigError(f"{where} has no training {what}")
    labels = {item.label for item in splits["train"]}
    classes = tuple(sorted(label for label in labels if label is not None)) if None not in labels else None
    if classes is not None:
        for other in ("val", "test"):
            check_classes(classes, (str(item.label) for item in splits.get(other, ())), f"{other} of {where}")
    if not splits.get(split):
        counts = ", ".join(f"{name}: {len(items)}" for name, items in splits.items())
        raise ConfigError(f"{where} has no {what} for split {split!r}; it has {counts}")
    return splits[split], classes
