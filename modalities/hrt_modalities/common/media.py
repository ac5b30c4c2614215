"""What datasets of files share: items and their splits, reading on demand, folders with a folder a class, tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError, printable
from hrt_mm.data.contained import ContainedFile
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Member, Splits
from hrt_mm.data.tokenizer import Tokenizer

from .division import Division, Traits, file_member
from .folders import Layout, labelled_files
from .splits import check_split
from .splitting import SplitConfig, ValSplitConfig
from .tables import SPAN_KEYS, Paths, Row, SpanColumns, label_of, labels_of, numbers_of

Target = str | tuple[str | None, ...] | tuple[float, ...] | None
"""A class or a text; several classes; words, symbols or classes of parts, where ``None`` is a part without a label; or
numbers."""


class MediaItem(Protocol):
    """A file or a part of one, with its label."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def target(self) -> Target: ...

    @property
    def group(self) -> str | None: ...


AnyItem = TypeVar("AnyItem", bound=MediaItem)
AnyRowItem = TypeVar("AnyRowItem")


@dataclass(frozen=True)
class FileItem:
    """A whole file.

    Args:
        name: its path from the dataset's folder, with ``/``.
        target: its label, where it has one.
        group: items of a group stay in one split.
    """

    name: str
    target: Target = None
    group: str | None = None

    @property
    def title(self) -> str:
        """The name of the file."""
        return self.name


class FileDataset(Dataset, Generic[AnyItem]):
    """Samples that are read from files on demand.

    A label that is a sequence (words, phonemes, characters) is a list of strings; ``classes`` are then the elements of
    those of the training split.

    Args:
        home: the folder that names are relative to.
        items: the files, or parts of them.
        classes: names of the classes, or ``None`` where labels are texts or absent.
    """

    def __init__(self, home: Home, items: Sequence[AnyItem], classes: tuple[str, ...] | None) -> None:
        self.home, self.root, self.items = home, home.root, items
        self.classes: tuple[str, ...] | None = classes

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """The file, and where the part begins if it is one."""
        return printable(self.items[index].title)

    def class_of(self, index: int) -> str | None:
        """The sample's class, where its label is one."""
        target = self.items[index].target
        return target if isinstance(target, str) and self.classes is not None else None

    def file_of(self, index: int, tower: str) -> Path | None:
        """The file of a sample; ``None`` if it lies within another file."""
        name = self.items[index].name
        return None if isinstance(name, ContainedFile) else self.root / name

    def contents(self, index: int) -> Mapping[str, Path | str]:
        """The file, and its label as ``cls``, or as ``txt`` if it is a text.

        Raises:
            ConfigError: the item is a part of a file, or has boundaries or labels of parts.
            BadSample: the file is missing, or lies outside of the folder.
        """
        item = self.items[index]
        plain = type(item)(item.name, item.target, group=item.group)  # type: ignore[call-arg]
        if item != plain or isinstance(item.target, tuple):
            raise ConfigError(
                f"{item.title} is a part of a file, or has several labels; only whole files with one are packed"
            )
        suffix = PurePosixPath(item.name).suffix[1:].lower()
        label = {} if item.target is None else {"txt" if self.classes is None else "cls": item.target}
        return {suffix if suffix.isalnum() else "bin": self.home.path(item.name), **label}

    def sample(self, index: int, value: Any) -> Sample:
        """A value with the label and the name of its item."""
        item = self.items[index]
        return Sample(value, label_value(item.target), item.title)

    def label_of(self, index: int) -> Any:
        """The sample's label, without reading the file."""
        return label_value(self.items[index].target)


class MediaConfig(ValSplitConfig):
    """Datasets of files."""

    follow_links: bool = False
    """Read links that lead out of the dataset's folder."""

    def items(
        self,
        split: str,
        root: Path,
        division: Mapping[str, Sequence[AnyItem]] | Division[AnyItem],
        *,
        texts: bool = False,
    ) -> tuple[list[AnyItem], tuple[str, ...] | None]:
        """The items of a split, and the classes of train; ``val`` is split off ``train`` where it is missing.

        Args:
            split: which one.
            root: the folder that names are relative to, for messages.
            division: the items of all splits.
            texts: whether targets that are strings are texts, not classes.

        Raises:
            ConfigError: the split or train is empty, or a split has a class that train has not.
        """
        checked: tuple[str, ...] = ("val", "test")
        if not isinstance(division, Division):
            # In generated and published data, errors in other splits do not matter.
            checked = (split,)
            if division.get("val"):
                self.needless("split_seed", f"data.type {self.type} has its own val")
            splits = {name: list(items) for name, items in division.items()}
            made_by = f"fixed by data.type {self.type}"
            division = self.with_val(Division(splits, f"data.root {root}", made_by, traits_of(texts=texts)))
        items = division.pick(split, self.what, checked)
        return items, None if texts else classes_of(division.splits["train"])

    def dataset(
        self, split: str, root: Path, items: Mapping[str, Sequence[Any]] | Division[Any], *, texts: bool = False
    ) -> Dataset:
        """The dataset of a split, from the items of all splits; ``val`` is split off ``train`` where it is missing.

        Args:
            split: which one.
            root: the folder that names are relative to.
            items: the items of all splits.
            texts: whether targets that are strings are texts, not classes.

        Raises:
            ConfigError: the split or train is empty, the split has a class that train has not, or the labels do not
                fit how files are read.
        """
        raise NotImplementedError(type(self))


class UnsplitConfig(SplitConfig, MediaConfig):
    """Datasets whose data may have no splits at all."""

    def listed_from(self, root: Path, division: Division[AnyItem]) -> Splits:
        """The content of each split.

        Args:
            root: the folder that names are relative to.
            division: the items of the splits.
        """

        def member(item: AnyItem, traits: Traits) -> Member:
            return file_member(root, item.title, traits)

        return division.listed(member, None if self.follow_links else root)


class FolderConfig(UnsplitConfig):
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed."""

    file_suffixes: ClassVar[Collection[str]]
    """Suffixes of the files that are read."""
    item: ClassVar[type[Any]]
    """The class of items, made from a name and a class."""

    root: Path
    """The folder."""
    layout: Layout = "auto"
    """What the folders in ``root`` are: ``splits`` (ROOT/SPLIT/CLASS/*), or ``classes`` (ROOT/CLASS/*); ``auto`` goes
    by their names, and refuses what could be both."""

    def build(self, split: str) -> Dataset:
        """The files of a split.

        Raises:
            ConfigError: the folder is missing or empty, a class has no file, a class is not in train, or folders could
                be splits as well as classes.
        """
        check_split(split)
        return self.dataset(split, self.root, self._division())

    def splits(self) -> Splits:
        """The content of each split."""
        return self.listed_from(self.root, self._division())

    def _division(self) -> Division[Any]:
        labelled = labelled_files(
            self.root, self.file_suffixes, self.what, layout=self.layout, follow_links=self.follow_links
        )
        splits = {name: [self.item(*file) for file in files] for name, files in labelled.splits.items()}
        made_by = f"by the folders of {self.root}" if labelled.has_splits else None
        return self.divide(splits, traits_of(), made_by=made_by, where=f"data.root {self.root}")


class LabelColumns(Component):
    """Columns of labels of a table."""

    label_column: str | tuple[str, ...] | None = "label"
    """Column of the label, or several of numbers; null for samples without labels."""
    label: str = "class"
    """Kind of the label: ``class``; ``classes``, any number of them in a cell; or ``numbers``, of one or several
    columns."""
    label_separator: Annotated[str, Field(min_length=1)] = ";"
    """What separates several classes, or numbers, in a cell; in JSONL and Parquet they may also be lists."""

    @model_validator(mode="after")
    def _label_fits(self) -> Self:
        several = isinstance(self.label_column, tuple)
        if several and self.label != "numbers":
            raise ValueError("label_column has several columns, which are for label: numbers; give one")
        if several and not self.label_column:
            raise ValueError("label_column is empty; give a column, or null")
        if self.label not in ("classes", "numbers") and self.label_separator != ";":
            raise ValueError("label_separator is for label: classes and numbers; drop it")
        return self

    def label_columns(self) -> tuple[str, ...]:
        """The columns of the label."""
        if self.label_column is None:
            return ()
        return self.label_column if isinstance(self.label_column, tuple) else (self.label_column,)

    def label_in(self, row: Row, location: str) -> Target:
        """The label of a row: a class, several of them, or numbers; ``None`` without a column.

        Args:
            row: of the table.
            location: the table and the line.

        Raises:
            ConfigError: it is missing, or is not of this kind.
        """
        columns = self.label_columns()
        if self.label == "numbers" and columns:
            return numbers_of(row, columns, self.label_separator, location)
        (column,) = columns or (None,)
        if self.label == "classes" and column is not None:
            return labels_of(row, column, self.label_separator, location)
        return label_of(row, column, location)


class RowsConfig(LabelColumns, UnsplitConfig):
    """Rows of a table, one per sample."""

    split_column: str | None = "split"
    """Column of the split: train, val or test, or other common names of these in any case (training, validation, dev,
    testing); null to split by class and seed."""

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.label_column is None and self.label != "class":
            raise ValueError(f"label: {self.label} has no effect without label_column; set it")
        return self

    @property
    @abstractmethod
    def home(self) -> Path:
        """The folder that paths in the table start at."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The setting that names the table and its value, for messages."""

    @abstractmethod
    def items_by_split(
        self, columns: Sequence[str], keys: Sequence[str], item: Callable[[Row, str, Paths], AnyRowItem]
    ) -> tuple[dict[str, list[AnyRowItem]], str | None]:
        """The items of the rows by split; and how the splits were made, ``None`` if the data has none.

        Args:
            columns: what each row must have a value in, beside the columns of groups and folds.
            keys: the settings that name columns, for messages.
            item: makes an item of a row, of its location for messages, and of the paths that may be named.

        Raises:
            ConfigError: the table is missing or broken, or a value is missing or is not what it should be.
        """

    @abstractmethod
    def of_rows(
        self, rows: Sequence[tuple[Row, str, Paths]], classes: tuple[str, ...] | None, *, training: bool
    ) -> Dataset:
        """The dataset of rows that are not divided into splits.

        Args:
            rows: with their locations, and the paths that each may name.
            classes: names of the classes, or ``None``.
            training: whether to augment.

        Raises:
            ConfigError: a value is missing or is not what it should be; names the row.
        """

    def of_table(self) -> bool:
        return True


class TableConfig(RowsConfig):
    """A table with one row per sample: CSV or TSV with a header, JSONL, or Parquet, by its suffix."""

    file: Path
    """The table. Its paths are relative to ``root`` and must stay inside it."""
    root: Path | None = None
    """Root of the paths in the table; the folder of the table when null. Absolute paths are allowed inside it, and all
    others are refused: the table is not trusted."""

    @property
    def home(self) -> Path:
        return self.root or self.file.parent

    @property
    def where(self) -> str:
        return f"data.file {self.file}"

    def items_by_split(
        self, columns: Sequence[str], keys: Sequence[str], item: Callable[[Row, str, Paths], AnyRowItem]
    ) -> tuple[dict[str, list[AnyRowItem]], str | None]:
        return self.items_of_rows(self.file, self.root, columns, keys, item), self.by_column()


class FileRowsConfig(RowsConfig):
    """A table with one row per file or part of a file."""

    column_keys: ClassVar[tuple[str, ...]] = ("path_column", "label_column", "split_column")
    """The keys that name a column."""

    path_column: str = "path"
    """Column of the file's path, or of its bytes where a table can have them."""

    def build(self, split: str) -> Dataset:
        """The files of a split.

        Raises:
            ConfigError: the file is missing or no table, a column or value is missing or is not what it should be, a
                path leads out of the folder, or a class is not in train; names the row.
        """
        check_split(split)
        return self.dataset(split, self.home, self._division(), texts=self._has_texts())

    def splits(self) -> Splits:
        """The content of each split."""
        return self.listed_from(self.home, self._division())

    def of_rows(
        self, rows: Sequence[tuple[Row, str, Paths]], classes: tuple[str, ...] | None, *, training: bool
    ) -> Dataset:
        """The files of rows that are not divided into splits."""
        items = [self.item_of_row(*row) for row in rows]
        division = Division({"train": items, "val": items}, self.where, "as it is", traits_of(texts=self._has_texts()))
        dataset = self.dataset("train" if training else "val", self.home, division, texts=self._has_texts())
        dataset.classes = classes
        return dataset

    def _has_texts(self) -> bool:
        return self.label == "text"

    def _division(self) -> Division[Any]:
        columns: list[str] = []
        for value in (getattr(self, key) for key in self.column_keys):
            columns += value if isinstance(value, tuple) else [value] if value is not None else []
        items, made_by = self.items_by_split(columns, self.column_keys, self.item_of_row)
        traits = traits_of(texts=self._has_texts())
        return self.divide(items, traits, made_by=made_by, where=self.where)

    @abstractmethod
    def item_of_row(self, row: Row, location: str, paths: Paths) -> Any:
        """The item of a row.

        Args:
            row: of the table.
            location: the table and the line.
            paths: the paths that the table may name.

        Raises:
            ConfigError: a value is not what it should be; names the row.
        """
        raise NotImplementedError(type(self))


class TimedRowsConfig(FileRowsConfig, SpanColumns):
    """A table of files that have a duration, or of parts of them."""

    column_keys = (*FileRowsConfig.column_keys, *SPAN_KEYS, "alignment_column")

    alignment_column: str | None = None
    """Column of the path of an alignment (TextGrid, CTM, TSV, JSON, SRT or WebVTT). Each tier is a boundary by that
    name; times count from the beginning of the file."""

    def alignment_of(self, row: Row, location: str, paths: Paths) -> str | None:
        """The path of a row's alignment, if it has one."""
        return paths.of(row, self.alignment_column, location) if self.alignment_column else None


def traits_of(*, texts: bool = False) -> Callable[[MediaItem], Traits]:
    """A function that returns the traits of an item.

    Args:
        texts: whether targets that are strings are texts, not classes.
    """

    def traits(item: MediaItem) -> Traits:
        target = item.target
        label = target if isinstance(target, str) and not texts else None
        return Traits(item.name, label, item.group)

    return traits


def classes_of(items: Iterable[MediaItem]) -> tuple[str, ...] | None:
    """All labels of items, including those in sequences; ``None`` if an item has no label, or numbers."""
    names: set[str] = set()
    for item in items:
        if item.target is None:
            return None
        for name in (item.target,) if isinstance(item.target, str) else item.target:
            if isinstance(name, float):
                return None
            if name is not None:
                names.add(name)
    return tuple(sorted(names))


def label_value(target: Target) -> Any:
    """A target as the label of a sample, in which several are a list."""
    return list(target) if isinstance(target, tuple) else target


def limit_towers(parts: Mapping[str, Dataset], tokenizers: Mapping[str, Tokenizer]) -> None:
    """Passes the limits of each tower's tokenizer to the dataset that reads for this tower.

    Args:
        parts: datasets by tower. Those without a tower in the run stay unlimited.
        tokenizers: of the run, by tower.
    """
    for tower, values in parts.items():
        if tower in tokenizers:
            values.limit(tokenizers[tower])
