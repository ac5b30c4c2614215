"""Samples of several modalities from a table: images with captions, videos with sound, in any combination."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Member, Splits
from hrt_mm.data.tables import texts_of
from hrt_mm.data.tokenizer import Tokenizer

from ..common.division import Division, Traits
from ..common.hugging_face import HuggingFaceRowsConfig
from ..common.media import RowsConfig, TableConfig, Target, label_value, limit_towers
from ..common.splits import check_split
from ..common.tables import Paths, Row
from .columns import AnySource, TextSource


@dataclass(frozen=True)
class ManifestEntry:
    """A row.

    Args:
        name: the path of its first file, or its text, by which splits are made if the table has none.
        title: the table's name and the line.
        target: its label, or the group whose rows are positives of each other.
        items: by tower, what is read; without the modalities that the row lacks.
        files: its paths.
        group: rows of a group stay in one split.
        columns: all columns of the row as texts, where they are to be shown.
    """

    name: str
    title: str
    target: Target
    items: Mapping[str, Any]
    files: tuple[str, ...] = ()
    group: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


class JointRowsConfig(RowsConfig):
    """A table with one row per sample of several modalities.

    A row may lack modalities: their cells are empty then, and the model does without them.
    """

    what = "rows"

    sources: Annotated[dict[str, AnySource], Field(min_length=2)]
    """By tower, its column and how it is read: ``{image: {type: image, column: path}, text: {type: text,
    column: title}}``."""
    label: Literal["class", "classes", "numbers", "group"] = "class"
    """Kind of the label: a class, several classes, or numbers to predict; or a group, whose rows are positives of each
    other, such as the id of an image with several rows."""

    def towers(self) -> tuple[str, ...]:
        """The names of the sources."""
        return tuple(self.sources)

    def build(self, split: str) -> Dataset:
        """The rows of a split.

        Raises:
            ConfigError: the file is missing or no table, a column is in no row, a row has no modality, a value is
                invalid, a path leads out of the folder, or a class is not in train; names the row.
        """
        return self._build(split, training=split == "train")

    def plain(self, split: str) -> Dataset:
        """The rows of a split without augmentation, with the first of several equivalent texts."""
        return self._build(split, training=False)

    def _build(self, split: str, *, training: bool) -> JointRows:
        check_split(split)
        division = self._division(columns=not training)
        entries, classes = self.items(split, self.home, division, texts=self.label == "group")
        return JointRows(self, entries, classes, training=training)

    def of_rows(
        self, rows: Sequence[tuple[Row, str, Paths]], classes: tuple[str, ...] | None, *, training: bool
    ) -> Dataset:
        """Rows that are not divided into splits."""
        return JointRows(self, [self._entry(*row) for row in rows], classes, training=training)

    def splits(self) -> Splits:
        """What is in each split."""
        home = self.home

        def member(entry: ManifestEntry, traits: Traits) -> Member:
            file = os.path.join(home, entry.files[0]) if entry.files else None
            return Member(entry.title, traits.label, traits.group, file)

        return self._division().listed(member, None if self.follow_links else home)

    def _division(self, *, columns: bool = False) -> Division[ManifestEntry]:
        """The rows by split, with or without their columns."""
        tower_of_column = {column: tower for tower, source in self.sources.items() for column in source.names()}
        missing, present = dict(tower_of_column), dict[str, None]()

        def entry(row: Row, location: str, paths: Paths) -> ManifestEntry:
            for column in row:
                missing.pop(column, None)
                present[column] = None
            entry = self._entry(row, location, paths)
            return replace(entry, columns=texts_of(row)) if columns else entry

        def traits(entry: ManifestEntry) -> Traits:
            grouped = self.label == "group"
            # Rows of a label that is a group are positives of each other, so they stay in one split.
            others = (*entry.files, *([f"alike:{entry.target}"] if grouped and entry.target is not None else []))
            label = entry.target if isinstance(entry.target, str) and not grouped else None
            return Traits(entry.name, label, entry.group, others)

        required = [*self.label_columns(), *([self.split_column] if self.split_column is not None else [])]
        entries, made_by = self.items_by_split(required, ("label_column", "split_column"), entry)
        if missing and present:
            column, tower = next(iter(missing.items()))
            available = ", ".join(present)
            raise ConfigError(f"{self.where} has no column {column!r}; it has {available}. Mend data.sources.{tower}")
        return self.divide(entries, traits, made_by=made_by, where=self.where)

    def _entry(self, row: Row, location: str, paths: Paths) -> ManifestEntry:
        items = {tower: source.item(row, location, paths) for tower, source in self.sources.items()}
        present = {tower: item for tower, item in items.items() if item is not None}
        if not present:
            columns = ", ".join(source.names()[0] for source in self.sources.values())
            raise ConfigError(f"{location} has nothing in the columns {columns}; fill one, or leave the row out")
        files = [tower for tower in present if not isinstance(self.sources[tower], TextSource)]
        first = (files or list(present))[0]
        label = self.label_in(row, location)
        paths_of_row = tuple(self.sources[tower].key(present[tower]) for tower in files)
        title, group = f"{paths.table.name}:{location.rpartition(':')[2]}", self.group_of(row, location)
        return ManifestEntry(self.sources[first].key(present[first]), title, label, present, paths_of_row, group)


class JointManifestConfig(TableConfig, JointRowsConfig):
    """A table with one row per sample of several modalities: CSV, TSV, JSONL or Parquet, by its suffix.

    A row may lack modalities: their cells are empty then, and the model does without them.
    """

    type: Literal["joint_manifest"]


class JointHuggingFaceConfig(HuggingFaceRowsConfig, JointRowsConfig):
    """Rows of Hugging Face ``datasets`` with several modalities, such as images with captions."""

    type: Literal["joint_hugging_face"]


class JointRows(Dataset):
    """Rows of a table.

    Args:
        config: of the dataset.
        entries: the rows.
        classes: names of the classes, or ``None``.
        training: whether to augment.
    """

    def __init__(
        self,
        config: JointRowsConfig,
        entries: Sequence[ManifestEntry],
        classes: tuple[str, ...] | None,
        *,
        training: bool,
    ) -> None:
        self.config, self.entries = config, list(entries)
        self.classes: tuple[str, ...] | None = classes
        self._values: dict[str, tuple[Dataset, dict[int, int]]] = {}
        for tower, source in config.sources.items():
            rows = [index for index, entry in enumerate(entries) if tower in entry.items]
            items = [entries[index].items[tower] for index in rows]
            values = source.dataset(config.home, items, training=training, follow_links=config.follow_links)
            self._values[tower] = values, {row: index for index, row in enumerate(rows)}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """The modalities of a row, with its label.

        Raises:
            BadSample: a file is missing or broken, or lies outside the folder; names it.
        """
        entry = self.entries[index]
        value = {
            tower: values[positions[index]].value
            for tower, (values, positions) in self._values.items()
            if index in positions
        }
        return Sample(value, label_value(entry.target), entry.title)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits what is read for each tower."""
        limit_towers({tower: values for tower, (values, _) in self._values.items()}, tokenizers)

    def name(self, index: int) -> str:
        """The table's name and the line."""
        return self.entries[index].title

    def class_of(self, index: int) -> str | None:
        """The row's class, where its label is one."""
        target = self.entries[index].target
        return target if isinstance(target, str) and self.classes is not None else None

    def label_of(self, index: int) -> Any:
        """The row's label."""
        return label_value(self.entries[index].target)

    def describe(self, index: int) -> Mapping[str, str]:
        """All columns of a row that are not empty. Rows of training data have none."""
        return self.entries[index].columns

    def file_of(self, index: int, tower: str) -> Path | None:
        """The picture, sound or video of a row."""
        values, positions = self._values[tower]
        return values.file_of(positions[index], tower) if index in positions else None
