"""From what a user names, files, folders, tables or lines, to inputs of a trained run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import UserError, printable
from ..data.capabilities import Textual
from ..data.contained import FileCell
from ..data.files import shown
from ..data.listing import ID, PATH, TABLES, is_inside, listed
from ..data.tables import Paths, Row, is_missing, rows_of
from ..data.tokenizer import SINGLE
from .inputs import Input
from .reading import TowerReader

TEXT = "text"
"""Default column of texts."""


def is_table(path: Path) -> bool:
    """Whether a file is a table, by its suffix."""
    return path.name.lower().endswith(tuple(TABLES)) and path.is_file()


def inputs_in(
    paths: Sequence[Path],
    readers: Mapping[str, TowerReader],
    *,
    columns: Sequence[str] = (),
    tower: str | None = None,
    id_column: str | None = None,
    root: Path | None = None,
) -> list[Input]:
    """Inputs of files, folders, patterns and tables.

    Args:
        paths: tables (by their suffix), and files, folders and patterns; see :func:`hrt_mm.data.listing.files_in`.
        readers: of the run, by tower.
        columns: of the tables to read: ``NAME`` for one tower, ``TOWER=NAME`` for several. Two names make the pairs of
            task ``matching``. If absent, ``text`` for texts and ``path`` for files; for several towers, the columns
            named after them.
        tower: that reads files, if there are several.
        id_column: of the tables, with unique names of the samples; ``id`` or the path if absent.
        root: the folder that paths in tables are relative to; that of each table if absent.

    Raises:
        UserError: a path does not exist, there are no files, a table cannot be used, or an option has no effect.
    """
    tables = [path for path in paths if is_table(path)]
    files = [path for path in paths if not is_table(path)]
    if not tables and (columns or id_column is not None or root is not None):
        option = "--column" if columns else "--id-column" if id_column is not None else "--root"
        raise UserError(f"{option} is for tables, and none is given; a table ends in {', '.join(sorted(TABLES))}")
    inputs: list[Input] = []
    if files:
        reading = _file_tower(readers, tower)
        suffixes, others = readers[reading].suffixes()
        entries = listed(files, (), suffixes, None, {*others, *TABLES})
        inputs += [Input(entry.name, {reading: entry.path}) for entry in entries]
    elif tower is not None:
        raise UserError("--tower is for files, and only tables are given; name columns with --column TOWER=NAME")
    for table in tables:
        inputs += _rows(table, readers, _columns(columns, readers), id_column, root)
    names: dict[str, None] = {}
    for entry in inputs:
        if entry.name in names:
            raise UserError(f"two samples are called {entry.name!r}; give each row its own with --id-column")
        names[entry.name] = None
    return inputs


def inputs_of_lines(lines: Iterable[str], readers: Mapping[str, TowerReader], tower: str | None = None) -> list[Input]:
    """Inputs of lines: a text each for towers of text, else a path. Empty lines are left out.

    Args:
        lines: with or without their ends.
        readers: of the run, by tower.
        tower: that reads them, if there are several.

    Raises:
        UserError: there are several towers and none is named, or there are no lines.
    """
    reading = _file_tower(readers, tower)
    textual = issubclass(readers[reading].modality, Textual)
    inputs = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if line.strip():
            name = f"line {number}" if textual else shown(line)
            inputs.append(Input(name, {reading: line if textual else Path(line)}))
    if not inputs:
        raise UserError("standard input has no lines; give a text or a path on each")
    return inputs


def _file_tower(readers: Mapping[str, TowerReader], tower: str | None) -> str:
    if tower is not None:
        if SINGLE in readers:
            raise UserError("--tower is for runs with several towers, and this one has one; drop it")
        if tower not in readers:
            raise UserError(f"the model has no tower {tower!r}; its towers are {', '.join(readers)}")
        return tower
    if len(readers) == 1:
        return next(iter(readers))
    names = " ".join(f"--column {name}=COLUMN" for name in readers)
    raise UserError(
        f"the model reads {', '.join(readers)}: give a table with a column for each ({names}), or name the tower that "
        f"reads the files with --tower {next(iter(readers))}"
    )


def _columns(columns: Sequence[str], readers: Mapping[str, TowerReader]) -> dict[str, list[str]]:
    """Columns by tower, as they are given."""
    if SINGLE in readers:
        return {SINGLE: list(columns)} if columns else {}
    by_tower: dict[str, list[str]] = {}
    for column in columns:
        name, equals, value = column.partition("=")
        if not equals or name not in readers:
            raise UserError(f"--column {column}: write TOWER=NAME; the towers are {', '.join(readers)}")
        if name in by_tower:
            raise UserError(f"--column names the tower {name} twice")
        by_tower[name] = [value]
    return by_tower


def _rows(
    table: Path,
    readers: Mapping[str, TowerReader],
    columns: Mapping[str, list[str]],
    id_column: str | None,
    root: Path | None,
) -> list[Input]:
    paths = Paths(table, root, "--root")
    inputs = []
    for number, row in rows_of(table, "the table"):
        location = f"{table}:{number}"
        chosen = columns or _default_columns(row, readers, location)
        sources: dict[str, Any] = {}
        for tower, names in chosen.items():
            cells = [_cell(row, name, readers[tower], paths, location, required=tower == SINGLE) for name in names]
            if all(cell is not None for cell in cells):
                sources[tower] = cells[0] if len(cells) == 1 else tuple(cells)
        used = {name for names in chosen.values() for name in names}
        info = {printable(str(name)): _text(value) for name, value in row.items() if _is_plain(value)}
        name = _name(row, id_column, location) or _path_name(sources) or shown(f"{table.name}:{number}")
        id_name = id_column or ID
        inputs.append(Input(name, sources, {key: value for key, value in info.items() if key not in {*used, id_name}}))
    return inputs


def _default_columns(row: Row, readers: Mapping[str, TowerReader], location: str) -> dict[str, list[str]]:
    if SINGLE in readers:
        textual = issubclass(readers[SINGLE].modality, Textual)
        return {SINGLE: [TEXT if textual and TEXT in row else PATH]}
    named = {tower: [tower] for tower in readers if tower in row}
    if not named:
        columns = ", ".join(printable(str(name)) for name in row)
        raise UserError(
            f"{location} has no column named after a tower ({', '.join(readers)}); its columns are {columns}. Name one "
            f"with --column {next(iter(readers))}=NAME"
        )
    return named


def _cell(row: Row, column: str, reader: TowerReader, paths: Paths, location: str, *, required: bool) -> Any:
    """A text, a path or a contained file; ``None`` if the cell is empty and need not be filled."""
    if column not in row:
        columns = ", ".join(printable(str(name)) for name in row) or "none"
        raise UserError(f"{location} has no column {column!r}; its columns are {columns}. Name one with --column")
    if is_missing(row[column]) and not required:
        return None
    if isinstance(row[column], FileCell):
        return paths.of(row, column, location)
    if issubclass(reader.modality, Textual) and column != PATH:
        # An empty text is reported with the other samples that cannot be used.
        return "" if is_missing(row[column]) else _text(row[column])
    path = paths.root / paths.of(row, column, location)
    if not is_inside(path, paths.root):
        raise UserError(f"{location}: {path} is a link that leads out of {paths.root}; copy the file there")
    return path


def _is_plain(value: Any) -> bool:
    return not (is_missing(value) or isinstance(value, FileCell))


def _name(row: Row, column: str | None, location: str) -> str:
    if column is not None and column not in row:
        raise UserError(f"{location} has no column {column!r}; name one with --id-column")
    value = row.get(column or ID)
    if is_missing(value):
        if column is not None:
            raise UserError(f"{location} has an empty id in the column {column!r}; name the row")
        return ""
    return _text(value)


def _path_name(sources: Mapping[str, Any]) -> str:
    return next((shown(str(source)) for source in sources.values() if isinstance(source, Path)), "")


def _text(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
