"""Labelled files in folders: classes by the names of folders, and splits by the names of the folders above them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.files import shown
from hrt_mm.data.folders import Listing, by_suffix, listed, say_once, walk
from hrt_mm.data.splits import split_name, split_name_forms

from .split_names import resembles_split

log = logging.getLogger(__name__)

Layout = Literal["auto", "splits", "classes"]
"""``splits``: ROOT/SPLIT/CLASS/*; ``classes``: ROOT/CLASS/*; ``auto``: by the names of the folders."""


@dataclass(frozen=True)
class LabelledFiles:
    """The files of a folder with their classes.

    Args:
        splits: by split, paths from the root with the class of each; all are in ``train`` if the folder has no splits.
        has_splits: whether the folder has splits.
    """

    splits: Mapping[str, Sequence[tuple[str, str]]]
    has_splits: bool


def labelled_files(
    root: Path, suffixes: Collection[str] | None, what: str, *, layout: Layout = "auto", follow_links: bool = False
) -> LabelledFiles:
    """The files of a folder in the layout ROOT/SPLIT/CLASS/* or ROOT/CLASS/*, at any depth below the class.

    Args:
        root: the folder.
        suffixes: of the files that are read; all when ``None``.
        what: the kind of files, for messages: "images".
        layout: whether the first folders are splits or classes.
        follow_links: follow links to folders outside of the root.

    Raises:
        ConfigError: the folder is missing or empty, has a class without files, or its layout is neither or could be
            both; names the folders.
    """
    need_root(root)
    listing = walk(root, suffixes, follow_links=follow_links)
    ending = "" if suffixes is None else f" with files ending in {', '.join(sorted(suffixes))}"
    top = [name for name in listing.folders if "/" not in name]
    if not top:
        listing.warn(log, f"data.root {root}")
        files = [*listing.files, *listing.unread]
        there = f", but {by_suffix(files)} ({listed(map(shown, files))})" if files else ""
        raise ConfigError(f"data.root {root} has no folders in it{there}; expected SPLIT/CLASS/* or CLASS/*{ending}")
    sides = _sides(root, top, listing, layout)
    _check_classes(listing, sides, what, ending)
    listing.warn(log, f"data.root {root}")
    depth = 1 if sides else 0
    splits: dict[str, list[tuple[str, str]]] = {}
    loose_files = []
    for name in listing.files:
        parts = name.split("/")
        if len(parts) < depth + 2:
            loose_files.append(name)
        else:
            splits.setdefault(sides[parts[0]] if sides else "train", []).append((name, shown(parts[depth])))
    if loose_files:
        verb = "lies" if len(loose_files) == 1 else "lie"
        names, layout_of = listed(map(shown, loose_files)), "SPLIT/CLASS/*" if sides else "CLASS/*"
        say_once(log, f"data.root {root}: {names} {verb} in no folder of a class ({layout_of}), left out")
    return LabelledFiles(splits, bool(sides))


def need_root(root: Path, holds: str = "") -> None:
    """Checks that a folder of data exists.

    Args:
        root: the folder.
        holds: the name of a file or folder that it must contain.

    Raises:
        ConfigError: the folder or its required content is missing.
    """
    if not root.is_dir():
        raise ConfigError(f"data.root {root} is not a folder")
    if holds and not (root / holds).exists():
        raise ConfigError(f"data.root {root} holds no {holds}")


def _sides(root: Path, top: Sequence[str], listing: Listing, layout: Layout) -> dict[str, str]:
    """The split of each folder; empty if the folders are classes."""
    if layout == "classes":
        return {}
    where = f"data.root {root}"
    sides = {name: split for name in top if (split := split_name(name)) is not None}
    others = [name for name in top if name not in sides]
    if "train" in sides.values() or layout == "splits":
        # A folder of tables or decoded frames beside the splits is allowed; an empty one may be a misspelt split.
        used = {name.split("/")[0] for name in listing.files}
        beside = [
            name for name in others if name not in used and any(path.startswith(f"{name}/") for path in listing.unread)
        ]
        if beside:
            names = listed(f"{shown(name)}/" for name in beside)
            say_once(log, f"{where}: {names} beside the splits has nothing that is read; it is left out")
        if others := [name for name in others if name not in beside]:
            first = next((name for name, split in sides.items() if split == "train"), "no train")
            fix = "" if layout == "splits" else f". If {first}/ is a class, set data.layout: classes"
            raise ConfigError(
                f"{where} has {first}/ and also {listed(f'{shown(name)}/' for name in others)}; expected train/, val/ "
                f"and test/ alone, by these names: {split_name_forms()}{fix}"
            )
        _refuse_twins(where, sides)
        return sides
    _refuse_hidden_splits(where, top, sides, listing)
    return {}


def _refuse_twins(where: str, sides: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for name, split in sides.items():
        other = first.setdefault(split, name)
        if other != name:
            raise ConfigError(
                f"{where} has two folders of the split {split}: {other}/ and {name}/; merge or rename them, so that "
                f"there is one each for train, val and test, by these names: {split_name_forms()}"
            )


def _refuse_hidden_splits(where: str, top: Sequence[str], sides: Mapping[str, str], listing: Listing) -> None:
    """Refuses classes that are probably splits.

    Raises:
        ConfigError: there are such folders; names them and the fix.
    """
    remedy = "or set data.layout: classes if these are classes"
    if sides:
        raise ConfigError(
            f"{where} has {listed(f'{name}/' for name in sides)} but no train/ beside it: it has "
            f"{listed(f'{shown(name)}/' for name in top)}. Name the folder of training files train/, {remedy}"
        )
    alike = {name: split for name in top if (split := resembles_split(name)) is not None}
    if alike and (len(alike) == len(top) or len(set(alike.values())) > 1):
        raise ConfigError(
            f"{where}: the folders {listed(f'{shown(name)}/' for name in alike)} look like splits, but their names are "
            f"not known; rename them to train/, val/ and test/, {remedy}"
        )
    if alike:
        named = listed(f"{shown(name)}/" for name in alike)
        fix = "if it is a split, rename the folders to train/, val/ and test/"
        say_once(log, f"{where}: {named} is read as a class; {fix}")
    inside: dict[str, dict[str, str]] = {}
    for name in listing.folders:
        parent, _, leaf = name.rpartition("/")
        if parent and (split := split_name(leaf)) is not None:
            inside.setdefault(parent, {})[name] = split
    within = [name for splits_of in inside.values() if len(set(splits_of.values())) > 1 for name in splits_of]
    if within:
        alone = len(top) == 1 and len({name.rpartition("/")[0] for name in within}) == 1
        fix = (
            f"set data.root to {listing.root / within[0].rpartition('/')[0]}"
            if alone
            else "lay them out as SPLIT/CLASS/*"
        )
        raise ConfigError(
            f"{where}: the folders {listed(f'{shown(name)}/' for name in within)} look like splits, but lie where "
            f"files of a class are expected; {fix}, {remedy}"
        )


def _check_classes(listing: Listing, sides: Mapping[str, str], what: str, ending: str) -> None:
    """Refuses classes without files, and splits without classes.

    Raises:
        ConfigError: there are such folders; names one and its content.
    """
    depth = 1 if sides else 0
    classes = [name for name in listing.folders if name.count("/") == depth]
    if sides:
        classes = [name for name in classes if name.split("/")[0] in sides]
    for side in sides:
        if not any(name.startswith(f"{side}/") for name in classes):
            inside = [name for name in (*listing.files, *listing.unread) if name.startswith(f"{side}/")]
            there = f", but {by_suffix(inside)}" if inside else ""
            move = f"; if these have no classes, move {side}/ elsewhere" if inside else ""
            raise ConfigError(f"{listing.root / side} has no folders in it{there}; expected a folder a class{move}")
    full = {"/".join(name.split("/")[: depth + 1]) for name in listing.files if name.count("/") > depth}
    for empty in (name for name in classes if name not in full):
        raise ConfigError(
            f"{shown(str(listing.root / empty))} has no {what}{_contents(listing, f'{empty}/')}; expected files"
            f"{ending.removeprefix(' with files') or ', or no such folder'}"
        )


def _contents(listing: Listing, prefix: str) -> str:
    unread = [name for name in listing.unread if name.startswith(prefix)]
    left_out = [str(path) for path in listing.left_out if path.name.startswith(prefix)]
    parts = []
    if unread:
        names = listed(shown(name.removeprefix(prefix)) for name in unread)
        parts.append(f"{by_suffix(unread)}, whose suffixes are not read ({names})")
    if left_out:
        parts.append(listed(left_out))
    return f", but {'; and '.join(parts)}" if parts else ""


def files_under(root: Path, suffixes: Collection[str], follow_links: bool = False) -> Iterator[str]:
    """Paths of the files of a corpus relative to its folder, in order, with a warning about what is left out.

    Args:
        root: the folder.
        suffixes: of the files, in lower case.
        follow_links: follow links to folders outside of the root.
    """
    listing = walk(root, suffixes, follow_links=follow_links)
    listing.warn(log, f"data.root {root}", unread=False)
    yield from listing.files
