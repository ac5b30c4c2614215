"""What files are embedded: those that are named, lie in folders or match patterns, and those that tables name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..tables import Row, path_of, rows_of

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
        return cls(path, str(path), {"file": str(path)})


def listed(paths: Sequence[Path], manifests: Sequence[Path] = ()) -> list[Listed]:
    """The files that are named one way or another, each once.

    Args:
        paths: files, folders and patterns, as :func:`files_in` takes them.
        manifests: tables of files, as :func:`listed_in` takes them; what they know of a file is kept.

    Raises:
        UserError: something is not there, there are no files at all, or a table cannot be used; names the row.
    """
    known = listed_in(manifests)
    there = {own.path for own in known}
    found = [*(Listed.of(path) for path in files_in(paths) if path not in there), *known]
    if not found:
        raise UserError(f"there are no files in {', '.join(map(str, [*paths, *manifests]))}")
    return found


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, those within folders that are, and those that match patterns, in the order of names.

    Args:
        paths: files, folders, and patterns such as ``films/**/*.mp4``, where ``**`` stands for folders within others.

    Raises:
        UserError: something is not there, or nothing matches.
    """
    found: list[Path] = []
    for path in paths:
        for own in _matching(path):
            found += sorted(item for item in own.rglob("*") if item.is_file()) if own.is_dir() else [own]
    return list(dict.fromkeys(found))


def _matching(path: Path) -> list[Path]:
    # A name with brackets in it may be that of a file.
    if path.exists():
        return [path]
    if not has_magic(str(path)):
        raise UserError(f"{path} is not there")
    if not (names := sorted(glob(str(path), recursive=True))):
        raise UserError(f"nothing matches {path}; * stands for a part of a name, ** for folders within others")
    return [Path(name) for name in names]


def listed_in(manifests: Sequence[Path]) -> list[Listed]:
    """The files that tables name, a row each, with their other columns as what a search shows.

    Args:
        manifests: CSV, TSV (both with a header) or JSONL. ``path`` starts at the table's folder and stays inside;
            ``id`` is what the row is called, its path from here when absent.

    Raises:
        ConfigError: a file is no such table, or a row's path is none or leads out of the folder; names the row.
        UserError: a row has no path, or an id that another one has.
    """
    found: dict[str, tuple[str, Listed]] = {}
    for manifest in manifests:
        for number, row in rows_of(manifest, "--manifest"):
            place = f"{manifest}:{number}"
            own = _listed(manifest.parent, row, place)
            if own.name in found:
                raise UserError(f"{place} has the id {own.name!r} of {found[own.name][0]}; give each row its own")
            found[own.name] = place, own
    return [own for _, own in found.values()]


def _listed(folder: Path, row: Row, place: str) -> Listed:
    if row.get(PATH) is None:
        have = ", ".join(str(column) for column in row) or "none"
        raise UserError(f"{place} has no column {PATH!r}; its columns are {have}")
    path = folder / path_of(row, PATH, place)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{place}: {path} is a link that leads out of {folder}; copy the file there")
    name = _text(row[ID]) if row.get(ID) is not None else str(path)
    if not name:
        raise UserError(f"{place} has an empty id; name the row, or drop the column to call it by its path")
    texts = {str(column): _text(value) for column, value in row.items() if value not in (None, "")}
    info = {column: text for column, text in texts.items() if column not in (PATH, ID)}
    return Listed(path, name, {**info, "file": info.get("file", str(path))})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
