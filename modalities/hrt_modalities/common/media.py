"""What datasets of sound and video files share: splits of items, their classes, and folders with a folder a class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from hrt_mm.data.splits import Member, Splits

from .division import Division, Traits, file_member
from .folders import Layout, labelled_files
from .splitting import SplitConfig, ValSplitConfig

Target = str | tuple[str | None, ...] | None
"""A class or a text, or a sequence of words, symbols or classes of parts; ``None`` in it is a part without a label."""


class MediaItem(Protocol):
    """A file or a part of one, with its label."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> Target: ...


AnyItem = TypeVar("AnyItem", bound=MediaItem)


class MediaConfig(ValSplitConfig):
    """Datasets of files."""

    follow_links: bool = False
    """Read links that lead out of the dataset's folder."""

    def items(
        self,
        split: str,
        root: Path,
        division: Mapping[str, Sequence[AnyItem]] | Division[AnyItem],
        *,
        texts: bool = False,
    ) -> tuple[list[AnyItem], tuple[str, ...] | None]:
        """The items of a split, and the classes of train; ``val`` is split off ``train`` where it is missing.

        Args:
            split: which one.
            root: the folder that names start at, for messages.
            division: the items of all splits.
            texts: whether targets that are strings are texts, not classes.

        Raises:
            ConfigError: the split or train is empty, or a split has a class that train has not.
        """
        checked: tuple[str, ...] = ("val", "test")
        if not isinstance(division, Division):
            # Of data that is rendered or published as it is, a split that is not asked for stops nothing.
            checked = (split,)
            if division.get("val"):
                self.needless("split_seed", f"data.type {self.type} has its own val")
            splits = {name: list(items) for name, items in division.items()}
            made_by = f"fixed by data.type {self.type}"
            division = self.with_val(Division(splits, f"data.root {root}", made_by, traits_of(texts=texts)))
        items = division.pick(split, self.what, checked)
        return items, None if texts else classes_of(division.splits["train"])


class UnsplitConfig(SplitConfig, MediaConfig):
    """Datasets whose data may have no splits at all."""

    def by_folders(
        self, root: Path, suffixes: Collection[str], make: Callable[[str, str], AnyItem], layout: Layout = "auto"
    ) -> Division[AnyItem]:
        """The splits of a folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/*.

        Args:
            root: the folder.
            suffixes: how files end.
            make: an item of its name and class.
            layout: whether the first folders are splits or classes.

        Raises:
            ConfigError: the folder is missing or empty, or is laid out in another way.
        """
        labelled = labelled_files(root, suffixes, self.what, layout=layout, follow_links=self.follow_links)
        splits = {name: [make(*file) for file in files] for name, files in labelled.splits.items()}
        made_by = f"by the folders of {root}" if labelled.own else None
        return self.divide(splits, traits_of(), made_by=made_by, where=f"data.root {root}")

    def listed_from(self, root: Path, division: Division[AnyItem]) -> Splits:
        """What is in each split.

        Args:
            root: the folder that names start at.
            division: the items of the splits.
        """

        def member(item: AnyItem, traits: Traits) -> Member:
            return file_member(root, getattr(item, "title", item.name), traits)

        return division.listed(member, None if self.follow_links else root)


def traits_of(*, texts: bool = False) -> Callable[[MediaItem], Traits]:
    """What decides on which side an item goes.

    Args:
        texts: whether targets that are strings are texts, not classes.
    """

    def traits(item: MediaItem) -> Traits:
        target = item.target
        label = target if isinstance(target, str) and not texts else None
        return Traits(item.name, label, getattr(item, "group", None))

    return traits


def classes_of(items: Iterable[MediaItem]) -> tuple[str, ...] | None:
    """All labels of items, those in sequences too; ``None`` where an item has none."""
    names: set[str] = set()
    for item in items:
        if item.target is None:
            return None
        labels = (item.target,) if isinstance(item.target, str) else item.target
        names.update(name for name in labels if name is not None)
    return tuple(sorted(names))
