"""Walking folders of files: hidden files are skipped, and those that cannot be read are reported."""

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
"""Files and folders that operating systems create by themselves, in lower case."""
_NAMED = 5
"""Maximum number of files to list in a message."""


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, created by the operating system, or an editor's backup."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _SYSTEM


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that was skipped.

    Args:
        name: path relative to the root, with ``/``.
        reason: why it was skipped.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)} ({self.reason})"


@dataclass
class Listing:
    """The content of a folder and its subfolders, without hidden files. Paths are relative to the folder, with ``/``.

    Args:
        root: the folder.
        files: with one of the suffixes, sorted; those of a folder come before its subfolders.
        folders: all folders, in the order of the walk.
        unread: files with other suffixes.
        left_out: links that are broken, cyclic or lead out of the folder, FIFOs, sockets, devices, and folders that
            cannot be listed.
        hidden: number of hidden files and folders, without the content of the latter.
    """

    root: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    hidden: int = 0

    def warn(self, log: Logger, where: str, *, unread: bool = True) -> None:
        """Warns of skipped files, once per folder.

        Args:
            log: to write to.
            where: names the folder in the message, such as ``data.root photos``.
            unread: warn of files with other suffixes too.
        """
        if self.left_out:
            say_once(log, f"{where}: left out {listed(map(str, self.left_out))}")
        if unread and (others := self.unexpected()):
            say_once(log, f"{where}: left out {by_suffix(others)}, which are not read; the first is {shown(others[0])}")

    def unexpected(self) -> list[str]:
        """Unread files that are not annotations, which have the same stem as a file that is read."""
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
    """Lists a folder and its subfolders.

    A link to a folder inside the root is followed if that folder is not listed anyway.

    Args:
        root: the folder.
        suffixes: of the files to list, with the dot, ignoring case; ``None`` for all files.
        follow_links: follow links to folders outside of the root too.
        files_outside: list links to files outside of the root. Datasets do, as :class:`hrt_mm.data.files.Home` rejects
            them one by one.
        skipped: names of subfolders to skip, at any depth.
        advice: the fix to name for links that lead out of the root.

    Raises:
        ConfigError: the root cannot be listed.
    """
    endings = None if suffixes is None else tuple(suffix.lower() for suffix in suffixes)
    listing = Listing(root)
    walker = _Walker(listing, endings, frozenset(skipped))
    try:
        os.listdir(root)
    except OSError as error:
        raise ConfigError(f"{root} cannot be listed: {error.strerror}") from error
    walker.run("")
    inside = root.resolve()
    linked = False
    if not files_outside:
        listing.files = [name for name in listing.files if walker.leads_in(name, inside)]
    while walker.links:
        name = walker.links.pop(0)
        path = root / name
        try:
            target = path.resolve()
            status = target.stat()
        except (OSError, RuntimeError) as error:  # it was removed or changed since it was listed
            listing.left_out.append(LeftOut(name, f"a broken link: {getattr(error, 'strerror', None) or error}"))
            continue
        leads_in = target.is_relative_to(inside)
        if path.parent.resolve().is_relative_to(target) or inside.is_relative_to(target):
            listing.left_out.append(LeftOut(name, f"a link that leads upwards, to {shown(str(target))}"))
        elif not leads_in and not follow_links:
            listing.left_out.append(LeftOut(name, f"a link to a folder outside of {root}; {advice}"))
        elif (status.st_dev, status.st_ino) in walker.seen:
            listing.left_out.append(LeftOut(name, f"a link to {shown(str(target))}, which is read already"))
        else:
            linked = True
            walker.run(name)
    if linked and not files_outside:
        listing.files = [name for name in listing.files if walker.leads_in(name, inside)]
    if linked:
        for names in (listing.files, listing.folders, listing.unread):
            names.sort(key=_order)
    listing.left_out.sort(key=lambda skipped_entry: _order(skipped_entry.name))
    return listing


class _Walker:
    """Lists files and folders into ``listing``, and collects links to folders in ``links``."""

    def __init__(self, listing: Listing, endings: tuple[str, ...] | None, skipped: frozenset[str]) -> None:
        self.listing, self.endings, self.skipped = listing, endings, skipped
        self.links: list[str] = []
        self.seen: set[tuple[int, int]] = set()

    def run(self, start: str) -> None:
        """Adds a folder and its subfolders."""
        pending = [start]
        while pending:
            folder = pending.pop()
            if folder:
                self.listing.folders.append(folder)
            # A stack: the last one is the next.
            pending += sorted(self._list(folder), reverse=True)

    def leads_in(self, name: str, inside: Path) -> bool:
        """Whether a file or the target of a link lies inside the root. Others are added to ``left_out``."""
        path = self.listing.root / name
        if not path.is_symlink() or path.resolve().is_relative_to(inside):
            return True
        self.listing.left_out.append(LeftOut(name, f"a link that leads out of {self.listing.root}"))
        return False

    def _list(self, folder: str) -> Iterator[str]:
        path = os.path.join(self.listing.root, folder)
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.listing.left_out.append(LeftOut(folder, f"cannot be listed: {error.strerror}"))
            return
        self.seen.add((status.st_dev, status.st_ino))
        for entry in inside:
            if hidden(entry.name):
                self.listing.hidden += 1
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
        matches = self.endings is None or name.lower().endswith(self.endings)
        (self.listing.files if matches else self.listing.unread).append(name)

    def _add_other(self, entry: os.DirEntry[str], name: str) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            reason = "a broken link" if entry.is_symlink() else "cannot be reached"
            self.listing.left_out.append(LeftOut(name, f"{reason}: {error.strerror}"))
            return
        if stat.S_ISDIR(mode):
            self.links.append(name)
        elif (kind := special(mode)) is not None:
            self.listing.left_out.append(LeftOut(name, f"a link to {kind}" if entry.is_symlink() else kind))
        else:
            self._add(name)


def _order(name: str) -> tuple[tuple[bool, str], ...]:
    """Sort key of the walk: the files of a folder before its subfolders."""
    *folders, file = name.split("/")
    return (*((True, folder) for folder in folders), (False, file))


def suffix_of(name: str) -> str:
    """The suffix of a file in lower case, or "no suffix"."""
    return os.path.splitext(name)[1].lower() or "no suffix"


def by_suffix(names: Iterable[str]) -> str:
    """The number of files of each suffix, as in "3 files of .heic, 1 file of .txt"."""
    counts = Counter(map(suffix_of, names))
    parts = [
        f"{count:,} {'file' if count == 1 else 'files'} of {shown(suffix)}" for suffix, count in counts.most_common()
    ]
    return ", ".join(parts[:10]) + (f" and {len(parts) - 10} other suffixes" if len(parts) > 10 else "")


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - _NAMED:,} more" if len(all_names) > _NAMED else ""
    return ", ".join(all_names[:_NAMED]) + more


@lru_cache(maxsize=1024)
def say_once(log: Logger, message: str) -> None:
    """Logs a warning once, as a dataset lists its folder for each split."""
    log.warning("%s", message)
