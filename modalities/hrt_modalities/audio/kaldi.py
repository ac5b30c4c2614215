"""Kaldi's data folders: ``wav.scp``, ``text``, ``segments`` and ``utt2spk``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.files import shown
from hrt_mm.data.plain_text import NotText, read_lines
from hrt_mm.data.splits import split_name
from hrt_mm.data.tables import Paths

from ..common.folders import need_root
from ..common.shards import LocatedRow, LocatedRowsConfig
from ..common.tables import Row, number_of
from .folders import AudioRowsConfig
from .recordings import Recording


class KaldiConfig(LocatedRowsConfig, AudioRowsConfig):
    """Utterances of Kaldi's data folders. Commands in ``wav.scp`` are refused, and never run.

    Columns are ``id``, ``path``, ``text`` and ``speaker``.
    """

    type: Literal["kaldi"]
    root: Path
    """A folder with ``wav.scp``, or of such folders that are named after splits: ``train``, ``dev``, ``test``."""
    audio_root: Path | None = None
    """The folder that paths in ``wav.scp`` start at and must stay inside; ``root`` when null."""
    label_column: str | None = "text"
    """Column of the label; null for utterances without labels."""
    label: Literal["class", "text", "words", "characters"] = "words"
    """Kind of the label: a class, a text, or a text that is split into words or characters."""

    @property
    def home(self) -> Path:
        return self.audio_root or self.root

    @property
    def where(self) -> str:
        return f"data.root {self.root}"

    def located_rows(self) -> Iterator[LocatedRow]:
        need_root(self.root)
        folders: dict[Path, str | None] = {self.root: None}
        if not (self.root / "wav.scp").exists():
            folders = {
                folder: split_name(folder.name)
                for folder in sorted(self.root.iterdir())
                if split_name(folder.name) is not None and (folder / "wav.scp").is_file()
            }
        if not folders:
            raise ConfigError(f"{self.where} has no wav.scp, and no folder train with one")
        for folder, split in folders.items():
            yield from self._utterances(folder, split)

    def _utterances(self, folder: Path, split: str | None) -> Iterator[LocatedRow]:
        paths = Paths(folder / "wav.scp", self.home, "data.audio_root")
        recordings = dict(_pairs(folder / "wav.scp"))
        for number, value in recordings.values():
            _check_path(f"{folder / 'wav.scp'}:{number}", value)
        texts, speakers = (
            dict(_pairs(folder / name)) if (folder / name).exists() else {} for name in ("text", "utt2spk")
        )
        utterances: dict[str, tuple[str, int, dict[str, Any]]] = {
            key: ("wav.scp", number, {"path": path}) for key, (number, path) in recordings.items()
        }
        if (folder / "segments").exists():
            utterances = {}
            for key, (number, value) in _pairs(folder / "segments"):
                parts = value.split()
                if len(parts) != 3 or parts[0] not in recordings:
                    raise ConfigError(
                        f"{folder / 'segments'}:{number} must be an utterance, a recording of wav.scp, and two times, "
                        f"got {key} {value[:60]!r}"
                    )
                utterances[key] = "segments", number, {
                    "path": recordings[parts[0]][1], "offset": parts[1], "end": parts[2]
                }  # fmt: skip
        for key, (file, number, row) in utterances.items():
            columns = {
                name: values[key][1] for name, values in (("text", texts), ("speaker", speakers)) if key in values
            }
            yield LocatedRow(split, f"{folder / file}:{number}", {"id": key, **row, **columns}, paths)

    def item_of_row(self, row: Row, location: str, paths: Paths) -> Recording:
        """The sound of an utterance, or the part of one."""
        offset, duration = 0.0, None
        if "offset" in row:
            offset, end = (number_of(row[column], column, location) for column in ("offset", "end"))
            # -1 is the end of the recording.
            duration = None if end == -1 else end - offset
        path, target = paths.of(row, self.path_column, location), self._target(row, location)
        return Recording(path, target, offset, duration, group=self.group_of(row, location))


def _pairs(file: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """The lines of a file: the key, the number of the line, and the rest."""
    try:
        lines = read_lines(file)
    except (OSError, NotText) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    keys: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if key in keys:
            raise ConfigError(f"{file}:{number} has {shown(key)} again, after line {keys[key]}")
        keys[key] = number
        yield key, (number, printable(rest[0]) if rest else "")


def _check_path(location: str, value: str) -> None:
    """Refuses commands and archives in the place of a path."""
    if value.endswith("|") or value.startswith("|") or value == "-":
        raise ConfigError(
            f"{location} has the command {value[:60]!r}, and commands are not run; write its output to a file and name "
            "that"
        )
    name, colon, position = value.rpartition(":")
    if colon and position.isdigit() and name.endswith(".ark"):
        raise ConfigError(f"{location} names an archive, {value[:60]!r}; write its sounds to files, and name these")
