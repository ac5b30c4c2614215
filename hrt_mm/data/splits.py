"""The splits of a dataset, and warnings about what makes their scores misleading."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import printable
from .duplicates import Limits, same_content

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""By split, the names that stand for it in folders, in tables and on the command line, in any case."""
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
MAX_EXAMPLES = 5
"""Maximum number of examples in a warning."""
_MISSING_VALUES = frozenset(
    ("NaN", "nan", "NAN", "null", "NULL", "None", "<NA>", "#N/A", "N/A", "n/a", "NaT", "undefined")
)


def split_name(name: str) -> str | None:
    """The split that a name stands for: ``train``, ``val``, ``test``, or ``None`` for another name."""
    return _SPLIT_OF.get(name.strip().lower())


def split_name_forms() -> str:
    """The names that splits may have, for messages."""
    return "; ".join(f"{split} (or {', '.join(names[1:])})" for split, names in SPLIT_NAMES.items())


@dataclass(frozen=True)
class Member:
    """A sample of a split, with what is known without reading it.

    Args:
        name: the file or row.
        label: its class, if any.
        group: samples of one group belong in one split, if groups are known.
        file: that holds its value.
        content: identifies its value if that is not a file, such as the digest of a text.
    """

    name: str
    label: str | None = None
    group: str | None = None
    file: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Splits:
    """All splits of a dataset.

    Args:
        members: the samples by split.
        made_by: what determines the splits: a column, folders, or ``split_by`` with its settings.
        shares: requested fractions, for splits made by ``split_by``.
        warnings: from making them.
        root: files outside of it are not read.
    """

    members: Mapping[str, Sequence[Member]]
    made_by: str
    shares: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    root: Path | None = None

    def classes(self) -> tuple[str, ...]:
        """All classes of all splits."""
        labels = {member.label for members in self.members.values() for member in members}
        return tuple(sorted(label for label in labels if label is not None))

    def counts(self) -> dict[str, Counter[str | None]]:
        """Number of samples of each class by split; ``None`` counts samples without a class."""
        return {split: Counter(member.label for member in members) for split, members in self.members.items()}


def split_warnings(splits: Splits, limits: Limits | None = None) -> list[str]:
    """Warnings about what makes the scores of the splits misleading.

    Args:
        splits: of a dataset.
        limits: of the search for equal contents, which is skipped if it would exceed them.
    """
    warnings = list(splits.warnings)
    warnings += _missing_classes(splits)
    warnings += _shares(splits)
    warnings += look_alikes(splits.classes())
    warnings += _missing_values(splits)
    warnings += _in_several_splits(splits)
    warnings += _same_contents(splits, limits)
    return warnings


def _missing_classes(splits: Splits) -> list[str]:
    counts, classes = splits.counts(), splits.classes()
    warnings = []
    for split in ("train", "val", "test"):
        if split in counts and (missing := [name for name in classes if not counts[split][name]]):
            effect = (
                "they cannot be learned, and a run refuses them"
                if split == "train"
                else f"the scores of {split} say nothing about them"
            )
            have = "has" if len(missing) == 1 else "have"
            warnings.append(
                f"{len(missing)} of {len(classes)} classes {have} no sample in {split}: {some(missing)}; {effect}"
            )
    return warnings


def _shares(splits: Splits) -> list[str]:
    total = sum(map(len, splits.members.values()))
    warnings = []
    for split, share in splits.shares.items():
        actual, requested = len(splits.members.get(split, ())), share * total
        if abs(actual - requested) > max(1.5, requested / 4):
            warnings.append(
                f"{split} has {actual / total:.0%} of the samples in place of {share:.0%}: small classes, large groups "
                "or split_by: hash allow no closer share"
            )
    return warnings


def _missing_values(splits: Splits) -> list[str]:
    total: Counter[str | None] = sum(splits.counts().values(), Counter())
    named = [f"{name!r} ({total[name]:,})" for name in splits.classes() if name in _MISSING_VALUES]
    return [f"classes that programs write for a missing value: {some(named)}; drop such samples"] if named else []


def look_alikes(labels: Iterable[str]) -> list[str]:
    """Warns of labels that differ only in case, spaces, invisible characters or Unicode normalization."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[_look_alike_key(label)].append(label)
    groups = [sorted(names) for names in alike.values() if len(names) > 1]
    if not groups:
        return []
    listed = "; ".join(" and ".join(map(_visible, names)) for names in sorted(groups)[:MAX_EXAMPLES])
    more = f"; and {len(groups) - MAX_EXAMPLES} more" if len(groups) > MAX_EXAMPLES else ""
    return [f"classes with names that look alike are different classes: {listed}{more}"]


def _look_alike_key(label: str) -> str:
    text = unicodedata.normalize("NFKC", label)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc") or char.isspace())
    text = " ".join(text.split())
    # Single letters often differ in case on purpose.
    return unicodedata.normalize("NFC", text.casefold()) if len(text) > 1 else text


def _visible(label: str) -> str:
    return ascii(label) if unicodedata.normalize("NFC", label) != label else repr(label)


def _in_several_splits(splits: Splits) -> list[str]:
    """Files and groups that occur in several splits."""
    warnings = []
    for what in ("file", "group"):
        keys = {
            split: {getattr(member, what) for member in members} - {None} for split, members in splits.members.items()
        }
        counts = Counter(key for split_keys in keys.values() for key in split_keys)
        shared = sorted(key for key, count in counts.items() if count > 1)
        if shared:
            splits_of_key = {
                key: ", ".join(split for split, split_keys in keys.items() if key in split_keys)
                for key in shared[:MAX_EXAMPLES]
            }
            names = [_short(key, splits.root) if what == "file" else printable(key) for key in shared]
            listed = some([f"{name} ({splits_of_key.get(key)})" for name, key in zip(names, shared, strict=True)])
            warnings.append(
                f"{len(shared)} {what}{'s are' if len(shared) > 1 else ' is'} in more than one split: {listed}"
            )
    return warnings


def _same_contents(splits: Splits, limits: Limits | None) -> list[str]:
    files = {split: [member.file for member in members if member.file] for split, members in splits.members.items()}
    shared = [
        ", ".join(f"{split} {_short(file, splits.root)}" for split, file in duplicates)
        for duplicates in same_content(files, splits.root, limits)
    ]
    contents: dict[bytes, dict[str, str]] = {}
    for split, members in splits.members.items():
        for member in members:
            if member.content is not None:
                contents.setdefault(member.content, {}).setdefault(split, member.name)
    shared += [
        ", ".join(f"{split} {name}" for split, name in names.items()) for names in contents.values() if len(names) > 1
    ]
    if not shared:
        return []
    have = "content is" if len(shared) == 1 else "contents are"
    return [f"{len(shared)} {have} in more than one split: {some(shared, between='; ')}"]


def _short(file: str, root: Path | None) -> str:
    return printable(file if root is None else file.removeprefix(os.path.join(root, "")))


def some(names: Sequence[str], between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MAX_EXAMPLES} more" if len(names) > MAX_EXAMPLES else ""
    return between.join(names[:MAX_EXAMPLES]) + more
