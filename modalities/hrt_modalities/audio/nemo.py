"""NeMo's manifests: JSON lines with ``audio_filepath``, ``duration``, ``offset`` and ``text``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.files import shown
from hrt_mm.data.splits import split_name_forms
from hrt_mm.data.tables import Paths, is_missing, rows_of

from ..common.folders import need_root
from ..common.shards import LocatedRow, LocatedRowsConfig, split_by_name
from ..common.tables import Row, number_of
from .folders import AudioRowsConfig
from .recordings import Recording

_SUFFIXES = (".json", ".jsonl")


class NemoConfig(LocatedRowsConfig, AudioRowsConfig):
    """Utterances of NeMo's manifests: a sound per row, or a part of one from ``offset`` for ``duration`` seconds."""

    type: Literal["nemo"]
    root: Path
    """A manifest (JSON lines, in a file that ends in ``.json`` or ``.jsonl``), or a folder of manifests, whose names
    begin with ``train``, ``val`` or ``test``, or other common names of these, as in ``dev_clean.json``."""
    audio_root: Path | None = None
    """The folder that paths in manifests start at and must stay inside; that of the manifests when null. Absolute paths
    are allowed inside it."""
    path_column: str = "audio_filepath"
    """Column of the sound's path."""
    offset_column: str | None = "offset"
    """Column of the seconds at which a part of the file begins; a row without it begins with the file."""
    duration_column: str | None = "duration"
    """Column of the duration of the part, in seconds; a row without it ends with the file."""
    label_column: str | None = "text"
    """Column of the label; null for utterances without labels."""
    label: Literal["class", "text", "words", "characters"] = "words"
    """Kind of the label: a class, a text, or a text that is split into words or characters."""
    column_keys = ("path_column", "label_column", "split_column", "alignment_column")

    @property
    def home(self) -> Path:
        return self.audio_root or (self.root if self.root.is_dir() else self.root.parent)

    @property
    def where(self) -> str:
        return f"data.root {self.root}"

    def located_rows(self) -> Iterator[LocatedRow]:
        manifests: dict[Path, str | None] = {self.root: None}
        if not self.root.is_file():
            need_root(self.root)
            files = [file for file in sorted(self.root.iterdir()) if file.suffix.lower() in _SUFFIXES]
            if not files:
                raise ConfigError(f"{self.where} has no manifests; their names end in {', '.join(_SUFFIXES)}")
            manifests = {file: split_by_name(file.name) for file in files}
        unknown = [file for file, split in manifests.items() if split is None]
        if len(manifests) > 1 and unknown:
            raise ConfigError(
                f"{self.where}: {shown(unknown[0].name)} is in no split; begin its name with {split_name_forms()}, or "
                "name one manifest"
            )
        for file, split in manifests.items():
            paths = Paths(file, self.audio_root, "data.audio_root")
            for number, row in rows_of(file, "data.root", ".jsonl"):
                yield LocatedRow(split, f"{file}:{number}", row, paths)

    def item_of_row(self, row: Row, location: str, paths: Paths) -> Recording:
        """The sound of a row, or the part of one."""
        offset, duration = (
            None if column is None or is_missing(row.get(column)) else number_of(row[column], column, location)
            for column in (self.offset_column, self.duration_column)
        )
        path, target = paths.of(row, self.path_column, location), self._target(row, location)
        alignment, group = self.alignment_of(row, location, paths), self.group_of(row, location)
        return Recording(path, target, offset or 0.0, duration, alignment=alignment, group=group)
