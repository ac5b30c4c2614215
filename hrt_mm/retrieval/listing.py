"""What files are embedded: those that are named, lie in folders or match patterns, and those that tables name."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..core.errors import UserError, printable
from ..data.files import shown
from ..data.folders import by_suffix, hidden, walk
from ..data.tables import Paths, Row, is_missing, rows_of

log = logging.getLogger(__name__)

PATH, ID = "path", "id"
"""Columns of a manifest that are not shown: where a file lies, and what it is called."""


@dataclass(frozen=True)
class Listed:
    """A file to be embedded.

    Args:
        path: where it lies.
        name: its id, which is unique.
        info: what a search shows of it.
    """

    path: Path
    name: str
    info: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Listed:
        """A file of which nothing is known."""
        return cls(path, shown(str(path)), {"file": shown(str(path))})


def listed(
    paths: Sequence[Path],
    manifests: Sequence[Path] = (),
    suffixes: Collection[str] | None = None,
    root: Path | None = None,
    others: Collection[str] = (),
) -> list[Listed]:
    """The files that are named one way or another, each once.

    Args:
        paths: files, folders and patterns, as :func:`files_in` takes them.
        manifests: tables of files, as :func:`listed_in` takes them; what they know of a file is kept.
        suffixes: of the files that count in folders, as :func:`files_in` takes them.
        root: the folder that the paths of tables start at; their own when ``None``.
        others: suffixes that do not count, as :func:`files_in` takes them.

    Raises:
        UserError: something is not there, there are no files at all, or a table cannot be used; names the row.
    """
    known = listed_in(manifests, root)
    there = {own.path for own in known}
    found = [*(Listed.of(path) for path in files_in(paths, suffixes, others) if path not in there), *known]
    if not found:
        raise UserError(f"there are no files in {', '.join(map(str, [*paths, *manifests]))}{_ending(suffixes)}")
    return found


def files_in(
    paths: Sequence[Path], suffixes: Collection[str] | None = None, others: Collection[str] = ()
) -> list[Path]:
    """The files that are named, those within folders that are, and those that match patterns, in the order of names.

    Hidden files, and files of other suffixes, are left out of folders and of what patterns match, unless the pattern
    gives the suffix. What is left out is said once for each folder.

    Args:
        paths: files, folders, and patterns such as ``films/**/*.mp4``, where ``**`` stands for folders within others.
        suffixes: of the files that count in folders; all when ``None``.
        others: suffixes that do not count even so.

    Raises:
        UserError: something is not there, or nothing matches.
    """
    found: list[Path] = []
    for path in paths:
        if path.exists() or path.is_symlink():  # a name with brackets in it may be that of a file
            found += _inside(path, suffixes, others) if path.is_dir() else [path]
        else:
            found += _matching(path, suffixes, others)
    return list(dict.fromkeys(found))


def _inside(folder: Path, suffixes: Collection[str] | None, others: Collection[str]) -> list[Path]:
    listing = walk(folder, suffixes, files_outside=False, advice="name that folder itself")
    listing.warn(log, str(folder), unread=False)
    names = [name for name in listing.files if not name.lower().endswith(tuple(others))]
    taken = set(names)
    _say_unread(folder, [*listing.unread, *(name for name in listing.files if name not in taken)])
    return sorted(folder / name for name in names)


def _matching(pattern: Path, suffixes: Collection[str] | None, others: Collection[str]) -> list[Path]:
    if not has_magic(str(pattern)):
        raise UserError(f"{pattern} is not there")
    matches = _deep(pattern) if "**" in pattern.parts else [Path(name) for name in sorted(glob(str(pattern)))]
    if not matches:
        raise UserError(f"nothing matches {pattern}; * stands for a part of a name, ** for folders within others")
    found, unread = [], []
    asked = pattern.suffix.lower() if not has_magic(pattern.suffix) else ""
    for path in matches:
        if hidden(path.name) and not pattern.name.startswith("."):
            continue
        if path.is_dir():
            home, target = path.parent.resolve(), path.resolve()
            if path.is_symlink() and (home.is_relative_to(target) or not target.is_relative_to(home)):
                log.warning("left out: %s: a link that leads out of its folder; name it itself", shown(str(path)))
            else:
                found += _inside(path, suffixes, others)
        elif (asked and path.suffix.lower() == asked) or _counts(path.name, suffixes, others):
            found.append(path)
        else:
            unread.append(str(path))
    _say_unread(pattern, unread)
    return found


def _deep(pattern: Path) -> list[Path]:
    """The files that a pattern with ``**`` matches. Unlike :func:`glob.glob`, this goes into no circle of links."""
    fixed = next(place for place, part in enumerate(pattern.parts) if has_magic(part))
    root, wanted = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    if not root.is_dir():
        return []
    listing = walk(root, None, files_outside=False, advice="name that folder itself")
    listing.warn(log, str(root), unread=False)
    return sorted(root / name for name in listing.files if _fits(name.split("/"), wanted))


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        # At the end it stands for all that is within.
        return len(wanted) == 1 or any(_fits(parts[place:], wanted[1:]) for place in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])


def _counts(name: str, suffixes: Collection[str] | None, others: Collection[str]) -> bool:
    name = name.lower()
    return not name.endswith(tuple(others)) and (suffixes is None or name.endswith(tuple(suffixes)))


def _say_unread(where: Path, names: Sequence[str]) -> None:
    if names:
        log.warning("%s: left out %s, which are not read; the first is %s", where, by_suffix(names), shown(names[0]))


def _ending(suffixes: Collection[str] | None) -> str:
    return f"; files that count end in {', '.join(sorted(suffixes))}" if suffixes else ""


def listed_in(manifests: Sequence[Path], root: Path | None = None) -> list[Listed]:
    """The files that tables name, a row each, with their other columns as what a search shows.

    Args:
        manifests: CSV, TSV (both with a header) or JSONL. ``path`` starts at the root and stays inside; ``id`` is what
            the row is called, its path from here when absent.
        root: the folder that paths start at, and must lie inside; the table's own when ``None``.

    Raises:
        ConfigError: a file is no such table, or a row's path is none or leads out of the folder; names the row.
        UserError: a row has no path, or an id that another one has.
    """
    found: dict[str, tuple[str, Listed]] = {}
    for manifest in manifests:
        paths = Paths(manifest, root, "--root")
        for number, row in rows_of(manifest, "--manifest"):
            place = f"{manifest}:{number}"
            own = _listed(paths, row, place)
            if own.name in found:
                raise UserError(f"{place} has the id {own.name!r} of {found[own.name][0]}; give each row its own")
            found[own.name] = place, own
    return [own for _, own in found.values()]


def _listed(paths: Paths, row: Row, place: str) -> Listed:
    if PATH not in row:
        have = ", ".join(str(column) for column in row) or "none"
        raise UserError(f"{place} has no column {PATH!r}; its columns are {have}")
    path = paths.root / paths.of(row, PATH, place)
    if not _is_inside(path, paths.root):
        raise UserError(f"{place}: {path} is a link that leads out of {paths.root}; copy the file there")
    name = _text(row[ID]) if row.get(ID) is not None else shown(str(path))
    if not name:
        raise UserError(f"{place} has an empty id; name the row, or drop the column to call it by its path")
    texts = {printable(str(column)): _text(value) for column, value in row.items() if not is_missing(value)}
    info = {column: text for column, text in texts.items() if column not in (PATH, ID)}
    return Listed(path, name, {**info, "file": info.get("file", shown(str(path)))})


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return True  # what no file can be called is left out when it is read


def _text(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
