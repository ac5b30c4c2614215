"""Walks through folders of files: hidden ones are left out, and what cannot be read is named."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from logging import Logger
from pathlib import Path

from ..core.errors import ConfigError
from .files import shown, special

_SYSTEM = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle",
        "#recycle", "#snapshot", "lost+found", "$recycle.bin", "recycler", "system volume information",
    }
)  # fmt: skip
"""What systems leave in folders without being asked, in lower case; names with a dot in front are hidden anyway."""
_NAMED = 5
"""Files that a message names, at most."""


def hidden(name: str) -> bool:
    """Whether the name of a file or folder is a hidden one, one of the system's, or that of an editor's backup."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _SYSTEM


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that cannot be read.

    Args:
        name: its path from the root, with ``/``.
        reason: what it is.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)} ({self.reason})"


@dataclass
class Listing:
    """What lies in a folder, at any depth. Paths start at the folder, with ``/``; hidden ones are absent.

    Args:
        root: the folder.
        files: those whose names end in one of the suffixes, those of a folder before those within it, in order.
        folders: all folders, in the order of the walk.
        unread: files of other suffixes.
        left_out: links that lead upwards, in a circle, nowhere or out of the folder, FIFOs, sockets, devices, and
            folders that cannot be listed.
        hidden: how many hidden files and folders there are; what is in those folders is not counted.
    """

    root: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    hidden: int = 0

    def warn(self, log: Logger, where: str, *, unread: bool = True) -> None:
        """Warns of what was left out, once for a folder.

        Args:
            log: where to.
            where: what names the folder, such as ``data.root photos``.
            unread: speak of files of other suffixes too.
        """
        if self.left_out:
            say_once(log, f"{where}: left out {listed(map(str, self.left_out))}")
        if unread and (others := self.strangers()):
            say_once(log, f"{where}: left out {by_suffix(others)}, which are not read; the first is {shown(others[0])}")

    def strangers(self) -> list[str]:
        """Unread files without a companion: transcripts and marks beside a file of the same stem are no surprise."""
        stems = {os.path.splitext(name)[0] for name in self.files}
        return [name for name in self.unread if "/" in name and os.path.splitext(name)[0] not in stems]


def walk(
    root: Path,
    suffixes: Collection[str] | None = None,
    *,
    follow_links: bool = False,
    files_outside: bool = True,
    skipped: Collection[str] = (),
    advice: str = "set data.follow_links: true where you trust it",
) -> Listing:
    """Lists a folder and those within it.

    A link to a folder inside the root is followed unless that is read anyway.

    Args:
        root: the folder.
        suffixes: how the names of files end, with the dot, in any case; all files count when ``None``.
        follow_links: go into folders outside of the root as well.
        files_outside: list links to files outside of the root. Datasets do, as :class:`hrt_mm.data.files.Home` refuses
            them one by one.
        skipped: names of folders that are not gone into, wherever they are.
        advice: what the reason of a link that leads out says to do.

    Raises:
        ConfigError: the root cannot be listed.
    """
    endings = None if suffixes is None else tuple(suffix.lower() for suffix in suffixes)
    found = Listing(root)
    walker = _Walker(found, endings, frozenset(skipped))
    try:
        os.listdir(root)
    except OSError as error:
        raise ConfigError(f"{root} cannot be listed: {error.strerror}") from error
    walker.run("")
    inside = root.resolve()
    linked = False
    if not files_outside:
        found.files = [name for name in found.files if walker.leads_in(name, inside)]
    while walker.links:
        name = walker.links.pop(0)
        path = root / name
        try:
            target = path.resolve()
            status = target.stat()
        except (OSError, RuntimeError) as error:  # it went, or changed, since it was listed
            found.left_out.append(LeftOut(name, f"a broken link: {getattr(error, 'strerror', None) or error}"))
            continue
        leads_in = target.is_relative_to(inside)
        if path.parent.resolve().is_relative_to(target) or inside.is_relative_to(target):
            found.left_out.append(LeftOut(name, f"a link that leads upwards, to {shown(str(target))}"))
        elif not leads_in and not follow_links:
            found.left_out.append(LeftOut(name, f"a link to a folder outside of {root}; {advice}"))
        elif (status.st_dev, status.st_ino) in walker.seen:
            found.left_out.append(LeftOut(name, f"a link to {shown(str(target))}, which is read already"))
        else:
            linked = True
            walker.run(name)
    if linked and not files_outside:
        found.files = [name for name in found.files if walker.leads_in(name, inside)]
    if linked:
        for names in (found.files, found.folders, found.unread):
            names.sort(key=_order)
    found.left_out.sort(key=lambda own: _order(own.name))
    return found


class _Walker:
    """Lists what is no link to a folder, and gathers those links."""

    def __init__(self, found: Listing, endings: tuple[str, ...] | None, skipped: frozenset[str]) -> None:
        self.found, self.endings, self.skipped = found, endings, skipped
        self.links: list[str] = []
        self.seen: set[tuple[int, int]] = set()

    def run(self, start: str) -> None:
        """Adds a folder and those within it."""
        pending = [start]
        while pending:
            folder = pending.pop()
            if folder:
                self.found.folders.append(folder)
            # A stack: the last one is the next.
            pending += sorted(self._list(folder), reverse=True)

    def leads_in(self, name: str, inside: Path) -> bool:
        """Whether a file lies inside the root, or is a link that leads there; others are left out."""
        path = self.found.root / name
        if not path.is_symlink() or path.resolve().is_relative_to(inside):
            return True
        self.found.left_out.append(LeftOut(name, f"a link that leads out of {self.found.root}"))
        return False

    def _list(self, folder: str) -> Iterator[str]:
        path = os.path.join(self.found.root, folder)
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.found.left_out.append(LeftOut(folder, f"cannot be listed: {error.strerror}"))
            return
        self.seen.add((status.st_dev, status.st_ino))
        for entry in inside:
            if hidden(entry.name):
                self.found.hidden += 1
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in self.skipped:
                    yield name
            elif entry.is_file(follow_symlinks=False):
                self._add(name)
            else:
                self._add_other(entry, name)

    def _add(self, name: str) -> None:
        wanted = self.endings is None or name.lower().endswith(self.endings)
        (self.found.files if wanted else self.found.unread).append(name)

    def _add_other(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            reason = "a broken link" if entry.is_symlink() else "cannot be reached"
            self.found.left_out.append(LeftOut(name, f"{reason}: {error.strerror}"))
            return
        if stat.S_ISDIR(mode):
            self.links.append(name)
        elif (kind := special(mode)) is not None:
            self.found.left_out.append(LeftOut(name, f"a link to {kind}" if entry.is_symlink() else kind))
        else:
            self._add(name)


def _order(name: str) -> tuple[tuple[bool, str], ...]:
    """Files of a folder before the folders in it, as the walk gives them."""
    *folders, file = name.split("/")
    return (*((True, folder) for folder in folders), (False, file))


def suffix_of(name: str) -> str:
    """The suffix of a file in lower case, or what stands for none."""
    return os.path.splitext(name)[1].lower() or "no suffix"


def by_suffix(names: Iterable[str]) -> str:
    """How many files of each suffix there are: "3 files of .heic, 1 file of .txt"."""
    counts = Counter(map(suffix_of, names))
    parts = [f"{count:,} {'file' if count == 1 else 'files'} of {shown(own)}" for own, count in counts.most_common()]
    return ", ".join(parts[:10]) + (f" and {len(parts) - 10} other suffixes" if len(parts) > 10 else "")


def listed(names: Iterable[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


@lru_cache(maxsize=1024)
def say_once(log: Logger, message: str) -> None:
    """Warns, but not of the same twice: a dataset lists its folder for each split."""
    log.warning("%s", message)
