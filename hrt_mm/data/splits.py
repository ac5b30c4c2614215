"""What is in each split of a data set, and what about it would make scores misleading."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import printable
from .duplicates import Limits, same_content

SHOWN = 5
"""Examples that a warning names at most."""
_NO_VALUES = frozenset(("NaN", "nan", "NAN", "null", "NULL", "None", "<NA>", "#N/A", "N/A", "n/a", "NaT", "undefined"))


@dataclass(frozen=True)
class Member:
    """A sample of a split, as far as it is known without reading it.

    Args:
        name: the file or row.
        label: its class, where it has one.
        group: what it must not be separated from, where groups are known.
        file: where its bytes are.
        content: stands for its value where that is not a file of its own, such as the digest of a text.
    """

    name: str
    label: str | None = None
    group: str | None = None
    file: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Splits:
    """All splits of a data set.

    Args:
        members: the samples by split.
        made_by: how the splits were made: by a column, by folders, or by the tool with which settings.
        shares: the shares that were asked for, of the splits that the tool made.
        warnings: what was noticed while they were made.
        root: files outside of it are not read; anything goes when absent.
    """

    members: Mapping[str, Sequence[Member]]
    made_by: str
    shares: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    root: Path | None = None

    def classes(self) -> tuple[str, ...]:
        """All classes of all splits."""
        labels = {own.label for members in self.members.values() for own in members}
        return tuple(sorted(label for label in labels if label is not None))

    def counts(self) -> dict[str, Counter[str | None]]:
        """Samples of each class by split; ``None`` stands for samples without a class."""
        return {split: Counter(own.label for own in members) for split, members in self.members.items()}


def split_warnings(splits: Splits, limits: Limits | None = None) -> list[str]:
    """What about the splits would make scores misleading.

    Args:
        splits: of a data set.
        limits: of the search for equal contents, which is left out where it would read more; none when absent.
    """
    found = list(splits.warnings)
    found += _missing_classes(splits)
    found += _shares(splits)
    found += look_alikes(splits.classes())
    found += _missing_values(splits)
    found += _on_two_sides(splits)
    found += _same_contents(splits, limits)
    return found


def _missing_classes(splits: Splits) -> list[str]:
    counts, classes = splits.counts(), splits.classes()
    found = []
    for split in ("train", "val", "test"):
        if split in counts and (missing := [name for name in classes if not counts[split][name]]):
            effect = (
                "they cannot be learned, and a run refuses them"
                if split == "train"
                else f"the scores of {split} say nothing about them"
            )
            have = "has" if len(missing) == 1 else "have"
            found.append(
                f"{len(missing)} of {len(classes)} classes {have} no sample in {split}: {some(missing)}; {effect}"
            )
    return found


def _shares(splits: Splits) -> list[str]:
    total = sum(map(len, splits.members.values()))
    found = []
    for split, share in splits.shares.items():
        have, wanted = len(splits.members.get(split, ())), share * total
        if abs(have - wanted) > max(1.5, wanted / 4):
            found.append(
                f"{split} has {have / total:.0%} of the samples in place of {share:.0%}: small classes, large groups "
                "or split_by: hash allow no closer share"
            )
    return found


def _missing_values(splits: Splits) -> list[str]:
    total: Counter[str | None] = sum(splits.counts().values(), Counter())
    named = [f"{name!r} ({total[name]:,})" for name in splits.classes() if name in _NO_VALUES]
    return [f"classes that programs write for a missing value: {some(named)}; drop such samples"] if named else []


def look_alikes(labels: Iterable[str]) -> list[str]:
    """A warning for labels that differ only in case, spaces, invisible characters or Unicode's composition."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[_looks(label)].append(label)
    groups = [sorted(own) for own in alike.values() if len(own) > 1]
    if not groups:
        return []
    listed = "; ".join(" and ".join(map(_visible, own)) for own in sorted(groups)[:SHOWN])
    more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return [f"classes with names that look alike are different classes: {listed}{more}"]


def _looks(label: str) -> str:
    text = unicodedata.normalize("NFKC", label)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc") or char.isspace())
    text = " ".join(text.split())
    # Single letters are often told apart by case on purpose.
    return unicodedata.normalize("NFC", text.casefold()) if len(text) > 1 else text


def _visible(label: str) -> str:
    return ascii(label) if unicodedata.normalize("NFC", label) != label else repr(label)


def _on_two_sides(splits: Splits) -> list[str]:
    """Files and groups that are in several splits."""
    found = []
    for what in ("file", "group"):
        keys = {split: {getattr(own, what) for own in members} - {None} for split, members in splits.members.items()}
        counts = Counter(key for own in keys.values() for key in own)
        shared = sorted(key for key, count in counts.items() if count > 1)
        if shared:
            where = {key: ", ".join(split for split, own in keys.items() if key in own) for key in shared[:SHOWN]}
            names = [_short(key, splits.root) if what == "file" else printable(key) for key in shared]
            listed = some([f"{name} ({where.get(key)})" for name, key in zip(names, shared, strict=True)])
            found.append(
                f"{len(shared)} {what}{'s are' if len(shared) > 1 else ' is'} in more than one split: {listed}"
            )
    return found


def _same_contents(splits: Splits, limits: Limits | None) -> list[str]:
    files = {split: [own.file for own in members if own.file] for split, members in splits.members.items()}
    shared = [
        ", ".join(f"{split} {_short(file, splits.root)}" for split, file in own)
        for own in same_content(files, splits.root, limits)
    ]
    contents: dict[bytes, dict[str, str]] = {}
    for split, members in splits.members.items():
        for own in members:
            if own.content is not None:
                contents.setdefault(own.content, {}).setdefault(split, own.name)
    shared += [", ".join(f"{split} {name}" for split, name in own.items()) for own in contents.values() if len(own) > 1]
    if not shared:
        return []
    have = "content is" if len(shared) == 1 else "contents are"
    return [f"{len(shared)} {have} in more than one split: {some(shared, between='; ')}"]


def _short(file: str, root: Path | None) -> str:
    return printable(file if root is None else file.removeprefix(os.path.join(root, "")))


def some(names: Sequence[str], between: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more
