"""Writing predictions: as text, CSV, JSONL or Parquet; and a journal, so that a job continues after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from ..core.errors import UserError, printable
from ..core.extras import needs_extra
from ..data.atomic_files import exclusive_lock, explained, flush_folder
from .predictions import PredictionRow, text_lines

FORMATS = ("text", "csv", "jsonl", "parquet")
JOURNAL = "rows.jsonl"
RESTART = "start again with --restart"
KEPT = "What was predicted is kept, and the same command continues from there"
_PARQUET_ROWS = 10_000


def format_of(path: Path | None, name: str | None) -> str:
    """The format of an output: as named, or by the suffix of its file; ``text`` for the terminal.

    Raises:
        UserError: the format is unknown, or cannot be written there.
    """
    if name is not None and name not in FORMATS:
        raise UserError(f"the format {name!r} is unknown; it is one of {', '.join(FORMATS)}")
    if path is None:
        if name == "parquet":
            raise UserError("parquet cannot be printed; name a file with --out")
        return name or "text"
    suffix = path.suffix.lower().removeprefix(".")
    chosen = name or {"txt": "text"}.get(suffix, suffix)
    if chosen not in FORMATS:
        raise UserError(f"{path} must end in .csv, .jsonl, .parquet or .txt; or name a format with --format")
    return chosen


class PredictionWriter(ABC):
    """Writes rows.

    Args:
        columns: in their order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)

    @abstractmethod
    def write(self, rows: Sequence[PredictionRow]) -> None:
        """Writes some rows."""

    def close(self) -> None:  # noqa: B027 - most have nothing left to write
        """Writes what is left."""


class CsvPredictions(PredictionWriter):
    """CSV with a header. Values that are neither texts nor numbers are JSON."""

    def __init__(self, out: TextIO, columns: Sequence[str]) -> None:
        super().__init__(columns)
        self.out = csv.writer(out, lineterminator="\n")
        self.out.writerow(self.columns)

    def write(self, rows: Sequence[PredictionRow]) -> None:
        for row in rows:
            self.out.writerow([_cell(row.get(column)) for column in self.columns])


class JsonPredictions(PredictionWriter):
    """An object on each line."""

    def __init__(self, out: TextIO, columns: Sequence[str]) -> None:
        super().__init__(columns)
        self.out = out

    def write(self, rows: Sequence[PredictionRow]) -> None:
        for row in rows:
            self.out.write(json.dumps({column: row.get(column) for column in self.columns}, ensure_ascii=False) + "\n")


class TextPredictions(PredictionWriter):
    """The lines of each prediction, for people."""

    def __init__(self, out: TextIO, columns: Sequence[str]) -> None:
        super().__init__(columns)
        self.out = out

    def write(self, rows: Sequence[PredictionRow]) -> None:
        for row in rows:
            self.out.write("\n".join(text_lines(row)) + "\n")


class ParquetPredictions(PredictionWriter):
    """Parquet. Values that are neither texts nor numbers are JSON; ``score`` is a double, all others are strings."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(columns)
        with needs_extra("data", "Parquet"):
            pyarrow: Any = import_module("pyarrow")
            parquet: Any = import_module("pyarrow.parquet")
        kinds = {"score": pyarrow.float64()}
        self.pyarrow = pyarrow
        self.schema = pyarrow.schema([(column, kinds.get(column, pyarrow.string())) for column in self.columns])
        self.out = parquet.ParquetWriter(path, self.schema)
        self.waiting: list[PredictionRow] = []

    def write(self, rows: Sequence[PredictionRow]) -> None:
        self.waiting += [{column: self._value(column, row.get(column)) for column in self.columns} for row in rows]
        if len(self.waiting) >= _PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.out.close()

    def _flush(self) -> None:
        if self.waiting:
            self.out.write_table(self.pyarrow.Table.from_pylist(self.waiting, self.schema))
            self.waiting = []

    def _value(self, column: str, value: Any) -> Any:
        if column == "score" or value is None:
            return value
        return value if isinstance(value, str) else _json(value)


def writer_to(out: TextIO, kind: str, columns: Sequence[str]) -> PredictionWriter:
    """A writer to a stream, of a format other than Parquet."""
    if kind == "csv":
        return CsvPredictions(out, columns)
    return JsonPredictions(out, columns) if kind == "jsonl" else TextPredictions(out, columns)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return printable(value) if isinstance(value, str) else value if isinstance(value, int) else _json(value)


class Journal:
    """What a job has predicted so far: a line for the job, then one for each batch.

    A line is written at once, so a job that is killed leaves whole batches, and at most one torn line at the end, which
    is cut off when it continues.

    Args:
        folder: of the journal; must exist.
        job: identifies the model, the inputs and the options, as JSON.

    Attributes:
        batches: number of batches that are written.

    Raises:
        UserError: the journal is that of another job, or damaged.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.batches = 0
        if self.path.exists():
            self._recover(job)
        self.file = self.path.open("a", encoding="utf-8")
        if self.file.tell() == 0:
            self._append({"job": dict(job)})

    def _recover(self, job: Mapping[str, Any]) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{self.path}:{number + 1} is damaged: {error}; {RESTART}") from error
                if number == 0:
                    self._check(entry, job)
                else:
                    self.batches += 1
                whole += len(line)
        os.truncate(self.path, whole)

    def _check(self, entry: Any, job: Mapping[str, Any]) -> None:
        before = entry.get("job", {}) if isinstance(entry, dict) else {}
        for name, value in json.loads(json.dumps(job)).items():
            if before.get(name) != value:
                raise UserError(
                    f"{self.path.parent} holds predictions that were begun with other {name}; repeat that command, or "
                    f"{RESTART}"
                )

    def add(self, rows: Sequence[PredictionRow], skipped: Sequence[tuple[str, str]]) -> None:
        """Adds a batch.

        Args:
            rows: its predictions.
            skipped: names of samples that cannot be used, with the reasons.
        """
        self._append({"rows": list(rows), "skipped": list(skipped)})
        self.batches += 1

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def entries(self) -> Iterator[tuple[list[PredictionRow], list[tuple[str, str]]]]:
        """Rows and skipped samples of each batch."""
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                entry = json.loads(line)
                yield entry["rows"], [(name, reason) for name, reason in entry["skipped"]]

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


@contextmanager
def journaled(out: Path, job: Mapping[str, Any], *, restart: bool = False) -> Iterator[Journal]:
    """The journal of a job, in a hidden folder beside its output. It stays after an error, for the job to continue.

    Args:
        out: the output; must not exist.
        job: see :class:`Journal`.
        restart: discard what an earlier job has left.

    Raises:
        UserError: the output exists, another process is writing it, an earlier job had other inputs or options, or the
            disk is full.
    """
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.parent}")
    folder = out.with_name(f".{out.name}.partial")
    with explained(out.parent, KEPT), exclusive_lock(folder, create=True):
        complete = False
        try:
            if out.exists() or out.is_symlink():
                raise UserError(f"{out} exists already; choose another file, or remove it")
            if restart:
                (folder / JOURNAL).unlink(missing_ok=True)
            journal = Journal(folder, job)
            try:
                yield journal
                complete = True
            finally:
                journal.close()
        finally:
            if complete or not _has_batches(folder / JOURNAL):
                shutil.rmtree(folder, ignore_errors=True)


def _has_batches(journal: Path) -> bool:
    """Whether a journal has more than its first line."""
    try:
        with journal.open("rb") as file:
            file.readline()
            return bool(file.readline())
    except FileNotFoundError:
        return False


def write_output(journal: Journal, out: Path, kind: str, columns: Sequence[str]) -> None:
    """Writes the rows of a journal to a file, which appears when it is complete.

    Args:
        journal: of the job.
        out: the file.
        kind: its format.
        columns: in their order.
    """
    aside = journal.path.with_name(f"output.{kind}")
    if kind == "parquet":
        writer: PredictionWriter = ParquetPredictions(aside, columns)
        for rows, _ in journal.entries():
            writer.write(rows)
        writer.close()
    else:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            writer = writer_to(file, kind, columns)
            for rows, _ in journal.entries():
                writer.write(rows)
            writer.close()
    with aside.open("rb+") as file:
        os.fsync(file.fileno())
    aside.rename(out)
    flush_folder(out.parent)
