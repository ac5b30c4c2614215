"""Listing the files to embed: by path, folder or pattern, or from tables."""

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
"""Columns of a manifest that are not displayed."""


@dataclass(frozen=True)
class Listed:
    """A file to embed.

    Args:
        path: of the file.
        name: unique id.
        info: texts to display in search results.
    """

    path: Path
    name: str
    info: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Listed:
        """A file that is identified by its path."""
        return cls(path, shown(str(path)), {"file": shown(str(path))})


def listed(
    paths: Sequence[Path],
    manifests: Sequence[Path] = (),
    suffixes: Collection[str] | None = None,
    root: Path | None = None,
    others: Collection[str] = (),
) -> list[Listed]:
    """Lists files from paths and tables, each once.

    Args:
        paths: files, folders and patterns; see :func:`files_in`.
        manifests: tables of files; see :func:`listed_in`. They take precedence over ``paths``.
        suffixes: of files in folders; see :func:`files_in`.
        root: the folder that paths in tables are relative to; that of each table if ``None``.
        others: suffixes to exclude; see :func:`files_in`.

    Raises:
        UserError: a path does not exist, there are no files, or a table cannot be used; names the row.
    """
    from_tables = listed_in(manifests, root)
    table_paths = {file.path for file in from_tables}
    files = [Listed.of(path) for path in files_in(paths, suffixes, others) if path not in table_paths]
    if not files + from_tables:
        raise UserError(f"there are no files in {', '.join(map(str, [*paths, *manifests]))}{_suffix_hint(suffixes)}")
    return files + from_tables


def files_in(
    paths: Sequence[Path], suffixes: Collection[str] | None = None, others: Collection[str] = ()
) -> list[Path]:
    """Lists files by path, folder or pattern, sorted by name within each.

    Hidden files and files with other suffixes are skipped in folders and pattern matches, with one warning for each,
    unless the pattern names the suffix.

    Args:
        paths: files, folders, and patterns such as ``films/**/*.mp4``, where ``**`` matches folders at any depth.
        suffixes: of files to list; all if ``None``.
        others: suffixes to exclude.

    Raises:
        UserError: a path does not exist, or a pattern matches nothing.
    """
    files: list[Path] = []
    for path in paths:
        if path.exists() or path.is_symlink():  # a file name may contain the brackets of a pattern
            files += _inside(path, suffixes, others) if path.is_dir() else [path]
        else:
            files += _matching(path, suffixes, others)
    return list(dict.fromkeys(files))


def _inside(folder: Path, suffixes: Collection[str] | None, others: Collection[str]) -> list[Path]:
    listing = walk(folder, suffixes, files_outside=False, advice="name that folder itself")
    listing.warn(log, str(folder), unread=False)
    names = [name for name in listing.files if not name.lower().endswith(tuple(others))]
    excluded = [name for name in listing.files if name.lower().endswith(tuple(others))]
    _warn_of_unread(folder, [*listing.unread, *excluded])
    return sorted(folder / name for name in names)


def _matching(pattern: Path, suffixes: Collection[str] | None, others: Collection[str]) -> list[Path]:
    if not has_magic(str(pattern)):
        raise UserError(f"{pattern} does not exist")
    matches = _deep(pattern) if "**" in pattern.parts else [Path(name) for name in sorted(glob(str(pattern)))]
    if not matches:
        raise UserError(f"nothing matches {pattern}; * stands for a part of a name, ** for folders within others")
    files, unread = [], []
    pattern_suffix = pattern.suffix.lower() if not has_magic(pattern.suffix) else ""
    for path in matches:
        if hidden(path.name) and not pattern.name.startswith("."):
            continue
        if path.is_dir():
            home, target = path.parent.resolve(), path.resolve()
            if path.is_symlink() and (home.is_relative_to(target) or not target.is_relative_to(home)):
                log.warning("left out: %s: a link that leads out of its folder; name it itself", shown(str(path)))
            else:
                files += _inside(path, suffixes, others)
        elif (pattern_suffix and path.suffix.lower() == pattern_suffix) or _has_suffix(path.name, suffixes, others):
            files.append(path)
        else:
            unread.append(str(path))
    _warn_of_unread(pattern, unread)
    return files


def _deep(pattern: Path) -> list[Path]:
    """The files that a pattern with ``**`` matches. Unlike :func:`glob.glob`, cycles of links are not followed."""
    fixed = next(depth for depth, part in enumerate(pattern.parts) if has_magic(part))
    root, patterns = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    if not root.is_dir():
        return []
    listing = walk(root, None, files_outside=False, advice="name that folder itself")
    listing.warn(log, str(root), unread=False)
    return sorted(root / name for name in listing.files if _matches(name.split("/"), patterns))


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        # At the end it matches everything inside.
        return len(patterns) == 1 or any(_matches(parts[skip:], patterns[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _has_suffix(name: str, suffixes: Collection[str] | None, others: Collection[str]) -> bool:
    name = name.lower()
    return not name.endswith(tuple(others)) and (suffixes is None or name.endswith(tuple(suffixes)))


def _warn_of_unread(where: Path, names: Sequence[str]) -> None:
    if names:
        log.warning("%s: left out %s, which are not read; the first is %s", where, by_suffix(names), shown(names[0]))


def _suffix_hint(suffixes: Collection[str] | None) -> str:
    return f"; files to read end in {', '.join(sorted(suffixes))}" if suffixes else ""


def listed_in(manifests: Sequence[Path], root: Path | None = None) -> list[Listed]:
    """Lists files from tables, with their other columns as texts to display.

    Args:
        manifests: CSV and TSV with a header, or JSONL. The column ``path`` is relative to the root and confined to it;
            ``id`` defaults to the path.
        root: the folder that paths are relative to; that of each table if ``None``.

    Raises:
        ConfigError: a table is malformed, or a path leads out of the root; names the row.
        UserError: a row has no path, or an id is not unique.
    """
    by_id: dict[str, tuple[str, Listed]] = {}
    for manifest in manifests:
        paths = Paths(manifest, root, "--root")
        for number, row in rows_of(manifest, "--manifest"):
            location = f"{manifest}:{number}"
            file = _from_row(paths, row, location)
            if file.name in by_id:
                raise UserError(f"{location} has the id {file.name!r} of {by_id[file.name][0]}; give each row its own")
            by_id[file.name] = location, file
    return [file for _, file in by_id.values()]


def _from_row(paths: Paths, row: Row, location: str) -> Listed:
    if PATH not in row:
        columns = ", ".join(str(column) for column in row) or "none"
        raise UserError(f"{location} has no column {PATH!r}; its columns are {columns}")
    path = paths.root / paths.of(row, PATH, location)
    if not _is_inside(path, paths.root):
        raise UserError(f"{location}: {path} is a link that leads out of {paths.root}; copy the file there")
    name = _text(row[ID]) if row.get(ID) is not None else shown(str(path))
    if not name:
        raise UserError(f"{location} has an empty id; name the row, or drop the column to call it by its path")
    texts = {printable(str(column)): _text(value) for column, value in row.items() if not is_missing(value)}
    info = {column: text for column, text in texts.items() if column not in (PATH, ID)}
    return Listed(path, name, {**info, "file": info.get("file", shown(str(path)))})


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return True  # an invalid file name is reported when the file is read


def _text(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
