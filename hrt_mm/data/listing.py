"""Listing the files to embed or to predict: by path, folder or pattern, or from tables."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path

from ..core.errors import UserError, printable
from .contained import ContainedFile, FileCell
from .files import shown
from .folders import by_suffix, hidden, walk
from .tables import Paths, Row, is_missing, rows_of, text_of, texts_of

log = logging.getLogger(__name__)

PATH, ID = "path", "id"
"""Default columns of the path and the id."""
TABLES = frozenset(
    [".parquet", *(f"{kind}{packing}" for kind in (".csv", ".tsv", ".jsonl") for packing in ("", ".gz", ".bz2", ".xz"))]
)
"""Suffixes of tables."""


@dataclass(frozen=True)
class Listed:
    """A file to embed, or a text or the bytes of a file from a table.

    Args:
        path: of the file, or of the table.
        name: unique id.
        info: texts to display in search results.
        text: from the table; ``None`` for files.
        title: what messages call it: the path of a file, or table and line of a text or of bytes.
        content: the bytes in the table; ``None`` for files that lie in a folder.
    """

    path: Path
    name: str
    info: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    title: str = ""
    content: ContainedFile | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or str(self.path))

    @classmethod
    def of(cls, path: Path) -> Listed:
        """A file that is identified by its path."""
        return cls(path, shown(str(path)), {"file": shown(str(path))})

    def file(self) -> Path:
        """The path to read from. That of bytes in a table is valid until several others were asked for.

        Raises:
            BadSample: the bytes cannot be read.
        """
        return self.path if self.content is None else self.content.path()

    def size(self) -> int:
        """Size in bytes, approximate for bytes in a table; characters of a text.

        Raises:
            OSError, ValueError: there is no such file.
        """
        if self.text is not None:
            return len(self.text)
        return self.path.stat().st_size if self.content is None else self.content.size()


def listed(
    paths: Sequence[Path],
    manifests: Sequence[Path] = (),
    suffixes: Collection[str] | None = None,
    root: Path | None = None,
    others: Collection[str] = (),
    *,
    texts: bool = False,
    column: str | None = None,
    id_column: str | None = None,
) -> list[Listed]:
    """Lists files, and texts in tables, each once.

    Args:
        paths: files, folders and patterns; see :func:`files_in`.
        manifests: tables of files; see :func:`listed_in`. They take precedence over ``paths``.
        suffixes: of files in folders; see :func:`files_in`.
        root: the folder that paths in tables are relative to; that of each table if ``None``.
        others: suffixes to exclude; see :func:`files_in`.
        texts: whether ``column`` has texts rather than paths. Tables among ``paths`` are then refused, as each would be
            one text.
        column: of the tables to read; ``path`` if absent.
        id_column: of the tables; ``id``, or the path, if absent.

    Raises:
        UserError: a path does not exist, there are no files, or a table cannot be used; names the row.
    """
    if texts:
        _refuse_tables(paths)
        others = {*others, *TABLES}
    from_tables = listed_in(manifests, root, texts=texts, column=column, id_column=id_column)
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


def _refuse_tables(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.name.lower().endswith(tuple(TABLES)) and path.is_file():
            _, row = next(rows_of(path, "the table"), (0, {}))
            columns = ", ".join(map(printable, map(str, row)))
            raise UserError(
                f"{path} is a table, which would be embedded as one text; give --manifest {path} and the --column with "
                f"the texts: {columns}"
            )


def listed_in(
    manifests: Sequence[Path],
    root: Path | None = None,
    *,
    texts: bool = False,
    column: str | None = None,
    id_column: str | None = None,
) -> list[Listed]:
    """Lists files or texts from tables, with all columns as texts to display.

    Args:
        manifests: CSV and TSV with a header, JSONL, or Parquet.
        root: the folder that paths are relative to; that of each table if ``None``.
        texts: whether ``column`` has texts rather than paths.
        column: of the texts; of the bytes of files; or of the paths, which are relative to the root and confined to it.
            ``path`` if absent.
        id_column: of the ids. If absent, ``id`` where a row has it, else the path, or the table's name and the line.

    Raises:
        ConfigError: a table is malformed, or a path leads out of the root; names the row.
        UserError: a row has no path or no id, or an id is not unique.
    """
    by_id: dict[str, tuple[str, Listed]] = {}
    for manifest in manifests:
        paths = Paths(manifest, root, "--root")
        for number, row in rows_of(manifest, "--manifest"):
            location = f"{manifest}:{number}"
            if isinstance(row.get(column or PATH), FileCell):
                entry = _contained_entry(paths, row, column or PATH, id_column, location)
            elif texts and column is not None:
                entry = _text_entry(manifest, number, row, column, id_column, location)
            else:
                entry = _file_entry(paths, row, column or PATH, id_column, location)
            if entry.name in by_id:
                raise UserError(
                    f"{location} has the id {entry.name!r} of {by_id[entry.name][0]}; give each row its own"
                )
            by_id[entry.name] = location, entry
    return [entry for _, entry in by_id.values()]


def _text_entry(manifest: Path, number: int, row: Row, column: str, id_column: str | None, location: str) -> Listed:
    _check_column(row, column, "--column", location)
    name = _id(row, id_column, location) or shown(f"{manifest.name}:{number}")
    value = row[column]
    info = _info(row, id_column)
    text = "" if is_missing(value) else text_of(value)
    return Listed(manifest, name, {**info, "file": info.get("file", shown(str(manifest)))}, text, location)


def _file_entry(paths: Paths, row: Row, column: str, id_column: str | None, location: str) -> Listed:
    _check_column(row, column, "--column", location)
    path = paths.root / paths.of(row, column, location)
    if not is_inside(path, paths.root):
        raise UserError(f"{location}: {path} is a link that leads out of {paths.root}; copy the file there")
    name = _id(row, id_column, location) or shown(str(path))
    info = {key: text for key, text in _info(row, id_column).items() if key != column}
    return Listed(path, name, {**info, "file": info.get("file", shown(str(path)))})


def _contained_entry(paths: Paths, row: Row, column: str, id_column: str | None, location: str) -> Listed:
    content = paths.of(row, column, location)
    assert isinstance(content, ContainedFile)
    info = _info(row, id_column)
    info = {**info, "file": info.get("file", shown(str(paths.table)))}
    return Listed(paths.table, _id(row, id_column, location) or shown(content), info, None, location, content)


def _check_column(row: Row, column: str, key: str, location: str) -> None:
    if column not in row:
        columns = ", ".join(printable(str(name)) for name in row) or "none"
        raise UserError(f"{location} has no column {column!r}; its columns are {columns}. Name one with {key}")


def _id(row: Row, column: str | None, location: str) -> str:
    """The id of a row; empty if it has none and no column is required."""
    if column is not None:
        _check_column(row, column, "--id-column", location)
    value = row.get(column or ID)
    if value is None and column is None:
        return ""
    name = "" if is_missing(value) else text_of(value)
    if not name:
        raise UserError(f"{location} has an empty id in the column {column or ID!r}; name the row, or drop the column")
    return name


def _info(row: Row, id_column: str | None) -> dict[str, str]:
    """The columns to display: all but ``id``, if it is the name of the row."""
    return {column: text for column, text in texts_of(row).items() if column != ID or id_column is not None}


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, with its links followed, lies inside of a folder."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return True  # an invalid file name is reported when the file is read
