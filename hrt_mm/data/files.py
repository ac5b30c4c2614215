"""Untrusted file names: checking paths before they are opened, and printing names.

Names come from folders or tables. They may be invalid UTF-8, lead out of their folder, or refer to a pipe that blocks.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from functools import lru_cache
from pathlib import Path

from ..core.errors import BadSample, printable
from .contained import ContainedFile

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LISTED = 200_000
"""Maximum number of folder entries to search for a name similar to a missing one."""


def shown(name: str) -> str:
    """A file name for messages, reports and JSON: on one line, without control characters, in valid UTF-8."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", printable(name))


def special(mode: int) -> str | None:
    """Describes the type of a file that is not regular, such as "a FIFO", from its mode; ``None`` for regular files."""
    if stat.S_ISREG(mode):
        return None
    return next((kind for matches, kind in _KINDS if matches(mode)), "no regular file")


def check_regular(path: Path, name: str) -> os.stat_result:
    """Checks that a path is a regular file before it is opened, as opening a FIFO blocks.

    Args:
        path: the file. Links are followed.
        name: of the file, for messages.

    Returns:
        Its :func:`os.stat`.

    Raises:
        BadSample: it is a folder, FIFO, socket or device.
        OSError: it is missing or cannot be reached.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a null byte or a lone surrogate
        raise BadSample(name, "is not a valid path on this system") from error
    if (kind := special(status.st_mode)) is not None:
        raise BadSample(name, f"is {kind}, not a file")
    return status


class Home:
    """The root folder of a dataset, which confines the files that are opened.

    Args:
        root: the folder.
        follow_links: allow links that lead out of the folder.
        advice: the fix to name in errors about such links.
    """

    def __init__(
        self, root: Path, follow_links: bool = False, advice: str = "set data.follow_links: true where you trust it"
    ) -> None:
        self.root, self.follow_links, self.advice = root, follow_links, advice
        self._resolved = root.resolve()

    def path(self, name: str) -> Path:
        """The path of a file in the folder.

        A missing file is reported here only if there is one with a similar name, and otherwise by its reader.

        Args:
            name: relative to the folder, with ``/``; or a :class:`~.contained.ContainedFile`, which has no place in it.

        Raises:
            BadSample: it is not a regular file, is missing but exists under a similar name, or lies outside the folder.
        """
        if isinstance(name, ContainedFile):
            return name.path()
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
    """A hint for a missing file: the file that was probably meant, and how its name differs.

    Args:
        root: the folder that the name is relative to.
        name: of the missing file.

    Returns:
        Empty if no name is similar.
    """
    for candidate in dict.fromkeys((name, name.replace("\\", "/"), name.strip())):
        match = _close(root, candidate)
        if match is None or match == name:
            continue
        reasons = []
        if "\\" in name and candidate == name.replace("\\", "/"):
            reasons.append("paths use / here, not \\")
        if candidate == name.strip() != name:
            reasons.append("the path has spaces around it")
        if unicodedata.normalize("NFC", match) != unicodedata.normalize("NFC", candidate):
            reasons.append("upper and lower case differ")
        elif match != candidate:
            reasons.append("it is written in another Unicode form (NFC or NFD)")
        return f"{shown(match)!r} is there: {' and '.join(reasons)}" if reasons else ""
    return ""


def _close(root: Path, name: str) -> str | None:
    """The file whose path differs from a name only by case and Unicode normalization."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    resolved: list[str] = []
    for depth, part in enumerate(parts):
        folder = os.path.join(root, *resolved)
        try:
            entries = _entries(folder, os.stat(folder).st_mtime_ns)
        except (OSError, ValueError):
            return None
        if part in entries.get(_folded(part), ()):
            resolved.append(part)
            continue
        same = entries.get(_folded(part), ())
        if not same or part == "..":
            return None
        resolved.append(same[0])
        if depth == len(parts) - 1 and not os.path.isfile(os.path.join(root, *resolved)):
            return None
    return "/".join(resolved) if resolved and os.path.isfile(os.path.join(root, *resolved)) else None


@lru_cache(maxsize=64)
def _entries(folder: str, changed: int) -> dict[str, tuple[str, ...]]:
    """The entries of a folder by case-folded name. ``changed`` is its modification time, for the cache."""
    by_folded_name: dict[str, tuple[str, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(_LISTED), entries, strict=False):
                key = _folded(entry.name)
                by_folded_name[key] = (*by_folded_name.get(key, ()), entry.name)
    except (OSError, ValueError):
        return {}
    return by_folded_name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
