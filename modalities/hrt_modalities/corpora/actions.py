"""Public video corpora in their original layouts: UCF101 and Kinetics. They are not downloaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.plain_text import NotText, read_lines

from ..common.division import Division, Traits
from ..common.folders import files_under, need_root
from ..common.splits import check_split
from ..common.tables import read_rows, seconds_of
from ..video.clips import Clip, Clips, ClipsConfig
from ..video.readers import SUFFIXES

_SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


class Ucf101Config(ClipsConfig):
    """UCF101: ``ROOT/CLASS/v_*.avi``, and lists such as ``trainlist01.txt`` with ``CLASS/v_*.avi 1`` a line."""

    type: Literal["ucf101"]
    root: Path
    """Folder of the videos."""
    lists: Path
    """Folder of the lists."""
    fold: Literal[1, 2, 3] = 1
    """One of the three official splits."""

    def build(self, split: str) -> Clips:
        """The videos of a split; ``val`` is split off train by whole groups of takes of one scene.

        Raises:
            ConfigError: the data is missing or broken; names the line.
        """
        check_split(split)
        need_root(self.root)
        need_root(self.lists)
        clips_by_split = {
            "train": self._read(self.lists / f"trainlist{self.fold:02}.txt"),
            "test": self._read(self.lists / f"testlist{self.fold:02}.txt"),
        }

        def traits(item: Clip) -> Traits:
            # CLASS/v_CLASS_g01_c02.avi without the number of the take: takes of a group are nearly the same.
            group = item.name.rsplit("_c", 1)[0]
            return Traits(item.name, item.target if isinstance(item.target, str) else None, group, key=group)

        made_by = f"by the lists of {self.lists}, fold {self.fold}"
        division = self.with_val(Division(clips_by_split, f"data.root {self.root}", made_by, traits))
        return self.dataset(split, self.root, division)

    def _read(self, file: Path) -> list[Clip]:
        try:
            lines = read_lines(file)
        except (OSError, NotText) as error:
            raise ConfigError(f"data.lists: {file} cannot be read: {error}") from error
        clips = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            # Names contain no spaces; training lists have the number of the class after them.
            name = line.split()[0]
            path = PurePosixPath(name)
            if len(path.parts) != 2 or path.is_absolute() or ".." in path.parts:
                raise ConfigError(f"{file}:{number} must be CLASS/VIDEO.avi, got {line!r:.80}")
            clips.append(Clip(name, path.parts[0]))
        return clips


class KineticsConfig(ClipsConfig):
    """Kinetics: CSV files with ``label, youtube_id, time_start, time_end``, and videos under their usual names.

    A video is ``ID_START_END.mp4`` with six digits each, or ``ID.mp4``, anywhere below the folder of its split. Missing
    ones, of which there usually are many, are left out.
    """

    type: Literal["kinetics"]
    root: Path
    """Folder with ``train.csv``, ``val.csv`` or ``validate.csv``, ``test.csv``, and the videos below it."""

    def build(self, split: str) -> Clips:
        """The videos of a split.

        Raises:
            ConfigError: the data is missing or broken; names the line.
        """
        check_split(split)
        need_root(self.root)
        files = {PurePosixPath(name).stem: name for name in files_under(self.root, SUFFIXES, self.follow_links)}
        splits: dict[str, list[Clip]] = {}
        for stem, name in _SPLITS.items():
            file = self.root / f"{stem}.csv"
            if file.is_file() and name not in splits:
                splits[name] = list(self._items(file, files))
        return self.dataset(split, self.root, splits)

    def _items(self, file: Path, files: dict[str, str]) -> list[Clip]:
        columns = ("label", "youtube_id", "time_start", "time_end")
        clips = []
        for number, row in read_rows(file, columns, "the columns of Kinetics"):
            location = f"{file}:{number}"
            start, end = (seconds_of(row, column, location) or 0.0 for column in columns[2:])
            trimmed = files.get(f"{row['youtube_id']}_{int(start):06}_{int(end):06}")
            full_name = files.get(row["youtube_id"])
            if trimmed is not None:
                clips.append(Clip(trimmed, row["label"]))
            elif full_name is not None:
                clips.append(Clip(full_name, row["label"], start, end))
        return clips
