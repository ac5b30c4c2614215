"""Files of others: which paths may be opened, and names that can be printed.

Names come from the disk or from tables. They may not be UTF-8, may lead out of their folder, and may stand for a pipe
that never ends.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from functools import lru_cache
from pathlib import Path

from ..core.errors import BadSample, printable

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LISTED = 200_000
"""Entries of a folder that are compared with a name that is not there."""


def shown(name: str) -> str:
    """A file name for messages, reports and JSON: on one line, without control characters, and valid in UTF-8."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", printable(name))


def special(mode: int) -> str | None:
    """What kind of file a mode from :func:`os.stat` stands for, such as "a FIFO"; ``None`` for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((kind for matches, kind in _KINDS if matches(mode)), "no regular file")


def check_regular(path: Path, name: str) -> os.stat_result:
    """Checks that a path is a regular file, before it is opened: opening a FIFO waits for ever.

    Args:
        path: the file; a link is followed.
        name: what messages call it.

    Returns:
        What :func:`os.stat` says of it.

    Raises:
        BadSample: it is a folder, FIFO, socket or device.
        OSError: it is missing or cannot be reached.
    """
    try:
        found = path.stat()
    except ValueError as error:  # a null byte or a lone surrogate
        raise BadSample(name, "is not a path that this system can have") from error
    if (kind := special(found.st_mode)) is not None:
        raise BadSample(name, f"is {kind}, not a file")
    return found


class Home:
    """The folder of a dataset: paths inside it are opened, others are refused.

    Args:
        root: the folder.
        follow_links: allow links that lead out of it.
        advice: what a message about such a link says to do.
    """

    def __init__(
        self, root: Path, follow_links: bool = False, advice: str = "set data.follow_links: true where you trust it"
    ) -> None:
        self.root, self.follow_links, self.advice = root, follow_links, advice
        self._resolved = root.resolve()

    def path(self, name: str) -> Path:
        """The path of a file of the folder.

        A missing file is left to what reads it, unless another name is so close that a message can help.

        Args:
            name: from the folder, with ``/``.

        Raises:
            BadSample: it is no regular file, is missing but there under a similar name, or lies outside the folder.
        """
        path = self.root / name
        try:
            inside = self.follow_links or path.resolve().is_relative_to(self._resolved)
        except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name too long, a lone surrogate
            raise BadSample(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not inside:
            raise BadSample(name, f"a link leads out of {self.root}{f'; {self.advice}' if self.advice else ''}")
        try:
            check_regular(path, name)
        except OSError as error:
            if near := nearly(self.root, name):
                raise BadSample(name, f"no such file; {near}") from error
        return path


def nearly(root: Path, name: str) -> str:
    """What a message can say of a missing file: the file that was probably meant, and how its name differs.

    Args:
        root: the folder that the name starts at.
        name: of no file there.

    Returns:
        Empty where no file is close.
    """
    for wanted in dict.fromkeys((name, name.replace("\\", "/"), name.strip())):
        found = _close(root, wanted)
        if found is None or found == name:
            continue
        reasons = []
        if "\\" in name and wanted == name.replace("\\", "/"):
            reasons.append("paths use / here, not \\")
        if wanted == name.strip() != name:
            reasons.append("the path has spaces around it")
        if unicodedata.normalize("NFC", found) != unicodedata.normalize("NFC", wanted):
            reasons.append("upper and lower case differ")
        elif found != wanted:
            reasons.append("it is written in another Unicode form (NFC or NFD)")
        return f"{shown(found)!r} is there: {' and '.join(reasons)}" if reasons else ""
    return ""


def _close(root: Path, name: str) -> str | None:
    """The file whose path differs from a name by case and Unicode form alone."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    found: list[str] = []
    for place, part in enumerate(parts):
        folder = os.path.join(root, *found)
        try:
            entries = _entries(folder, os.stat(folder).st_mtime_ns)
        except (OSError, ValueError):
            return None
        if part in entries.get(_folded(part), ()):
            found.append(part)
            continue
        same = entries.get(_folded(part), ())
        if not same or part == "..":
            return None
        found.append(same[0])
        if place == len(parts) - 1 and not os.path.isfile(os.path.join(root, *found)):
            return None
    return "/".join(found) if found and os.path.isfile(os.path.join(root, *found)) else None


@lru_cache(maxsize=64)
def _entries(folder: str, changed: int) -> dict[str, tuple[str, ...]]:
    """By folded name, the entries of a folder as it was when it changed last."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(_LISTED), entries, strict=False):
                key = _folded(entry.name)
                found[key] = (*found.get(key, ()), entry.name)
    except (OSError, ValueError):
        return {}
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
