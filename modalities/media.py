"""What datasets of sound and video files share: splits of items, their classes, and folders with a folder a class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from pydantic import model_validator

from hrt_mm.errors import ConfigError
from hrt_mm.modality import DatasetConfig

from .folders import Layout, labelled_files
from .splits import Part, by_hash, check_classes, check_split

Target = str | tuple[str | None, ...] | None
"""A class or a text, or a sequence of words, symbols or classes of parts; ``None`` in it is a part without a label."""


class Item(Protocol):
    """A file or a part of one, and what is known of it."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> Target: ...


AnyItem = TypeVar("AnyItem", bound=Item)


class MediaConfig(DatasetConfig):
    """Datasets of files."""

    what: ClassVar[str] = "files"
    """What files are, for messages."""

    val: Part = 0.1
    """Part of the training files that becomes ``val`` where the data names none: by a hash of their names."""
    follow_links: bool = False
    """Read links that lead out of the dataset's folder."""

    def items(
        self, split: str, root: Path, found: Mapping[str, Sequence[AnyItem]], *, texts: bool = False
    ) -> tuple[list[AnyItem], tuple[str, ...] | None]:
        """The items of a split, and the classes of train; ``val`` is split off ``train`` where it is missing.

        Args:
            split: which one.
            root: the folder that names start at, for messages.
            found: the items of all splits.
            texts: whether targets that are strings are texts, not classes.

        Raises:
            ConfigError: the split or train is empty, or the split has a class that train has not.
        """
        splits = {name: list(items) for name, items in found.items()}
        if not splits.get("val") and splits.get("train"):
            parts = by_hash(splits["train"], self.val, 0.0)
            splits["train"], splits["val"] = parts["train"], parts["val"]
        for needed in ("train", split):
            if not splits.get(needed):
                counts = ", ".join(f"{name}: {len(items)}" for name, items in splits.items()) or "none"
                raise ConfigError(f"data.root {root} has no {self.what} for split {needed!r}; it has {counts}")
        classes = None if texts else classes_of(splits["train"])
        if classes is not None:
            # Classes of whole files must be known; what stands in sequences may be new, as words of any speech are.
            named = (item.target for item in splits[split] if isinstance(item.target, str))
            check_classes(classes, named, f"{split} of {root}")
        return splits[split], classes

    def needless(self, key: str, reason: str) -> None:
        """Rejects a key that changes nothing. Its default is let pass: the resolved configuration of a run holds it.

        Raises:
            ConfigError: it was set to something else.
        """
        if getattr(self, key) != type(self).model_fields[key].default:
            raise ConfigError(f"data.{key} has no effect: {reason}; drop it")


class UnsplitConfig(MediaConfig):
    """Datasets whose data may have no splits at all."""

    test: Part = 0.1
    """Part of the files that becomes ``test`` where the data has no splits at all: by a hash of their names."""

    @model_validator(mode="after")
    def _leaves_some(self) -> UnsplitConfig:
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val:g} and test {self.test:g} leave nothing to train on")
        return self

    def check_own(self, found: Mapping[str, Sequence[AnyItem]], where: str) -> None:
        """Rejects parts that change nothing, where the data has its own splits.

        Raises:
            ConfigError: one was set.
        """
        self.needless("test", f"{where} has its own splits")
        if found.get("val"):
            self.needless("val", f"{where} has its own val")

    def by_folders(
        self,
        split: str,
        root: Path,
        suffixes: Collection[str],
        make: Callable[[str, str], AnyItem],
        layout: Layout = "auto",
    ) -> dict[str, list[AnyItem]]:
        """The items of all splits of a folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/*.

        Args:
            split: which one is asked for.
            root: the folder.
            suffixes: how files end.
            make: an item of its name and class.
            layout: whether the first folders are splits or classes.

        Raises:
            ConfigError: the folder is missing or empty, or is laid out in another way.
        """
        check_split(split)
        found = labelled_files(root, suffixes, self.what, layout=layout, follow_links=self.follow_links)
        splits = {name: [make(*own) for own in files] for name, files in found.splits.items()}
        if not found.own:
            return by_hash(splits.get("train", []), self.val, self.test)
        self.check_own(splits, str(root))
        return splits


def classes_of(items: Iterable[Item]) -> tuple[str, ...] | None:
    """All labels of items, those in sequences too; ``None`` where an item has none."""
    names: set[str] = set()
    for item in items:
        if item.target is None:
            return None
        own = (item.target,) if isinstance(item.target, str) else item.target
        names.update(name for name in own if name is not None)
    return tuple(sorted(names))
