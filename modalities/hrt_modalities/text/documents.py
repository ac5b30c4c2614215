"""Labelled documents: files in a folder a class, or the rows of a table, with one text or with two to compare.

Documents are given whole; invalid UTF-8 stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from hrt_mm.core.errors import BadSample, ConfigError, printable
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import Home
from hrt_mm.data.plain_text import NotText
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Member, Splits

from ..common.division import Division, Traits, file_member
from ..common.folders import Layout, labelled_files
from ..common.media import FileDataset, FileItem, LabelColumns, classes_of
from ..common.splits import check_split
from ..common.splitting import SplitConfig
from ..common.tables import Paths, Row, SplitColumn, read_rows
from .contents import PACKED_SUFFIXES, text_bytes
from .text import Text


@dataclass(frozen=True)
class DocumentItem(FileItem):
    """A document: a file, or a row of a table, whose name is the table and the line.

    Args:
        texts: of a row, one text, or two that are compared; ``None`` for a file.
    """

    texts: tuple[str, ...] | None = None


class Documents(FileDataset[DocumentItem]):
    """Documents that are read on demand. A value is bytes, a text, or two texts.

    Args:
        root: the folder that names start at.
        items: the documents.
        classes: names of the classes, or ``None``.
        raw_bytes: read files as bytes, whatever they are.
    """

    def __init__(
        self, root: Path, items: Sequence[DocumentItem], classes: tuple[str, ...] | None, raw_bytes: bool = False
    ) -> None:
        super().__init__(Home(root, advice=""), items, classes)
        self.raw_bytes = raw_bytes

    def __getitem__(self, index: int) -> Sample:
        """A document with the name of its class.

        Raises:
            BadSample: it is empty, or its file is missing, not text or outside the folder.
        """
        item = self.items[index]
        if item.texts is None:
            value: bytes | Text | tuple[Text, ...] = self._read(item.name)
            empty = not value
        else:
            texts = tuple(Text(text) for text in item.texts)
            value, empty = texts[0] if len(texts) == 1 else texts, not all(item.texts)
        if empty:
            raise BadSample(item.name, "is empty")
        return self.sample(index, value)

    def shape(self, index: int) -> Sequence[int]:
        """(bytes, 0), of both where there are two.

        Raises:
            BadSample: its file is missing or lies outside the folder.
        """
        item = self.items[index]
        if item.texts is not None:
            return sum(len(text.encode("utf-8", "replace")) for text in item.texts), 0
        try:
            path = self.home.path(item.name)
            packed = path.suffix.lower() in PACKED_SUFFIXES and not self.raw_bytes
            return len(self._read(item.name)) if packed else path.stat().st_size, 0
        except OSError as error:
            raise BadSample(item.name, f"cannot be read: {error.strerror}") from error

    def _read(self, name: str) -> bytes:
        try:
            path = self.home.path(name)
            return path.read_bytes() if self.raw_bytes else text_bytes(path)
        except NotText as error:
            raise BadSample(name, f"{error.reason}; bytes of any kind are taken with data.raw_bytes: true") from error
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error


class DocumentsConfig(LabelColumns, SplitConfig):
    """Labelled documents: a folder with one subfolder per class, or a table (CSV, TSV, JSONL) of documents."""

    what = "documents"

    type: Literal["documents"]
    root: Path | None = None
    """A folder in the layout ROOT/SPLIT/CLASS/*, or ROOT/CLASS/* that is split by class and seed. Beside
    ``file`` with ``path_column``: the folder that its paths start at and must lie inside; they may be absolute then."""
    file: Path | None = None
    """A table with one row per document, instead of a folder. Its texts stay in memory; files do not."""
    text_column: str | tuple[str, str] = "text"
    """Column of the text in the table, or two columns of texts that are compared."""
    path_column: str | None = None
    """Column of the path of a file with the text, in place of ``text_column``; from ``root``, or else the folder of the
    table."""
    label: Literal["class", "classes", "numbers"] = "class"
    """Kind of the label in a table: a class; several classes; or numbers, of one column or several."""
    split_column: str | None = "split"
    """Column of the split: train, val or test, or other usual names of these in any case (training, validation, dev,
    testing); null to split by class and seed."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of the files that are read in folders, such as ``.txt``, in any case; all when empty."""
    layout: Layout = "auto"
    """What the folders in ``root`` are: ``splits`` (ROOT/SPLIT/CLASS/*), or ``classes`` (ROOT/CLASS/*); ``auto`` goes
    by their names, and refuses what could be both."""
    raw_bytes: bool = False
    """Read files as bytes. Otherwise compressed text is decompressed and UTF-16 decoded, and files that are not text
    are bad samples."""

    @model_validator(mode="after")
    def _possible(self) -> DocumentsConfig:
        rooted = self.file is not None and self.path_column is not None
        if (self.root is None) == (self.file is None) and not rooted:
            raise ValueError("give one of root and file: a folder with a folder a class, or a table")
        default = DocumentsConfig.model_fields
        of_tables = ("text_column", "path_column", "label_column", "label", "label_separator", "split_column")
        unread = ("suffixes", "layout") if self.file else of_tables
        if changed := [key for key in unread if getattr(self, key) != default[key].default]:
            raise ValueError(f"{changed[0]} has no effect with {'file' if self.file else 'root'}; drop it")
        if self.path_column is not None and self.text_column != default["text_column"].default:
            raise ValueError("text_column has no effect with path_column; drop one")
        if self.raw_bytes and self.file is not None and self.path_column is None:
            raise ValueError("raw_bytes has no effect on texts in a table; drop it")
        return self

    def build(self, split: str) -> Documents:
        """The documents of a split.

        Raises:
            ConfigError: the data is missing or broken, the split is empty, or a class is not in train.
        """
        check_split(split)
        division = self._division()
        items = division.pick(split, self.what)
        return Documents(self._home(), items, classes_of(division.splits["train"]), self.raw_bytes)

    def splits(self) -> Splits:
        """What is in each split."""
        home = self._home()

        def member(item: DocumentItem, traits: Traits) -> Member:
            if item.texts is None:
                return file_member(home, item.name, traits)
            content = blake2b("\0".join(item.texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            return Member(printable(item.name), traits.label, traits.group, content=content)

        return self._division().listed(member, home)

    def _home(self) -> Path:
        home = self.root or (self.file.parent if self.file is not None else None)
        assert home is not None
        return home

    def _division(self) -> Division[DocumentItem]:
        if self.file is not None:
            items, made_by, where = self._rows(self.file), self.by_column(), f"data.file {self.file}"
        else:
            assert self.root is not None
            labelled = labelled_files(self.root, self.suffixes or None, self.what, layout=self.layout)
            items = {name: [DocumentItem(*entry) for entry in files] for name, files in labelled.splits.items()}
            made_by, where = f"by the folders of {self.root}" if labelled.has_splits else None, f"data.root {self.root}"

        def traits(item: DocumentItem) -> Traits:
            # Rows with the same text stay in one split.
            file = item.name if item.texts is None else "\0".join(item.texts)
            label = item.target if isinstance(item.target, str) else None
            return Traits(file, label, item.group, key=item.name if made_by is not None else None)

        return self.divide(items, traits, made_by=made_by, where=where)

    def _rows(self, file: Path) -> dict[str, list[DocumentItem]]:
        texts = self.text_column if isinstance(self.text_column, tuple) else (self.text_column,)
        columns = [*texts] if self.path_column is None else [self.path_column]
        columns += [*self.label_columns(), *([self.split_column] if self.split_column is not None else [])]

        def text(row: Row, column: str, location: str) -> str:
            value = row[column]
            if not isinstance(value, str):
                raise ConfigError(f"{location}: {column} must be a text, got {type(value).__name__}")
            return value

        def item(row: Row, location: str, paths: Paths) -> DocumentItem:
            label, group = self.label_in(row, location), self.group_of(row, location)
            if self.path_column is not None:
                return DocumentItem(paths.of(row, self.path_column, location), label, group)
            name = f"{file.name}:{location.rpartition(':')[2]}"
            return DocumentItem(name, label, group, tuple(text(row, column, location) for column in texts))

        keys = ("text_column", "path_column", "label_column", "split_column")
        return self.items_of_rows(file, self.root, columns, keys, item)


class TagsConfig(DatasetConfig):
    """Texts with a label per word or sentence: JSONL, with a list of words and a list of labels in each line."""

    type: Literal["tags"]
    file: Path
    """The table, JSONL."""
    words_column: str = "words"
    """Column of the words (or sentences), a list of strings."""
    tags_column: str = "tags"
    """Column of their labels, a list as long."""
    split_column: str = "split"
    """Column of the split: train, val or test, or other usual names of these in any case (training, validation, dev,
    testing)."""
    unit: str = "words"
    """Name of the boundary that the texts carry: a group starts at each of them."""
    separator: str = " "
    """What is put between two of them; empty where text has no spaces."""

    def build(self, split: str) -> Tagged:
        """The texts of a split.

        Raises:
            ConfigError: the table is missing or broken, the split is empty, or a label is not in train.
        """
        check_split(split)
        rows = self._rows()
        if not rows.get(split):
            counts = ", ".join(f"{name}: {len(tagged)}" for name, tagged in rows.items()) or "none"
            raise ConfigError(f"data.file {self.file} has no texts for split {split!r}; it has {counts}")
        names = {name: {tag for _, _, tags in tagged for tag in tags} for name, tagged in rows.items()}
        if extra := sorted(names[split] - names.get("train", set())):
            raise ConfigError(f"{split} of {self.file} has labels that train has not: {', '.join(extra[:5])}")
        return Tagged(rows[split], tuple(sorted(names["train"])), self.unit, self.separator)

    def splits(self) -> Splits:
        """What is in each split."""
        members = {
            split: [
                Member(location, content=blake2b("\0".join(words).encode("utf-8", "surrogatepass")).digest())
                for location, words, _ in tagged
            ]
            for split, tagged in self._rows().items()
        }
        return Splits(members, f"by the column {self.split_column!r} of {self.file}")

    def _rows(self) -> dict[str, list[tuple[str, list[str], list[str]]]]:
        columns = [self.words_column, self.tags_column, self.split_column]
        rows: dict[str, list[tuple[str, list[str], list[str]]]] = {}
        sides = SplitColumn(self.split_column, str(self.file))
        for number, row in read_rows(self.file, columns, "data.words_column, data.tags_column and data.split_column"):
            location = f"{self.file}:{number}"
            words, tags = (_list(row, column, location) for column in columns[:2])
            if len(words) != len(tags) or not all(words):
                raise ConfigError(
                    f"{location} has {len(words)} {self.words_column} and {len(tags)} {self.tags_column}; "
                    "they must be as many, and no word empty"
                )
            rows.setdefault(sides.of(row, location), []).append((location, words, list(map(printable, tags))))
        return rows


class Tagged(Dataset):
    """Texts of words with a label each; the label of a sample is the list of them."""

    def __init__(
        self, rows: Sequence[tuple[str, list[str], list[str]]], classes: tuple[str, ...], unit: str, separator: str
    ) -> None:
        self.rows, self.unit, self.separator = rows, unit, separator
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """A text that carries where its words start, and their labels.

        Raises:
            BadSample: it is empty.
        """
        location, words, tags = self.rows[index]
        if not words:
            raise BadSample(location, "is empty")
        starts = tuple(accumulate((len(word) + len(self.separator) for word in words[:-1]), initial=0))
        return Sample(Text(self.separator.join(words), boundaries={self.unit: starts}), tags, location)

    def name(self, index: int) -> str:
        """The table and the line."""
        return printable(self.rows[index][0])

    def shape(self, index: int) -> Sequence[int]:
        """(bytes, 0)."""
        return len(self.separator.join(self.rows[index][1]).encode("utf-8", "replace")), 0


def _list(row: Row, column: str, location: str) -> list[str]:
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{location}: {column} must be a list of strings, got {value!r:.60}")
    return value
