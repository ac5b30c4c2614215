"""Corpora for language models: documents laid end to end, and windows of them.

Nothing is copied and nothing is held: a window reads its bytes from the files when it is asked for, so a corpus may be
larger than memory. A line of JSONL is a document too; its place in the file is all that is kept of it.

Shapes: N documents.
"""

from __future__ import annotations

import json
import logging
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt, model_validator

from hrt_mm.errors import BadSample, ConfigError
from hrt_mm.files import special
from hrt_mm.folders import walk
from hrt_mm.modality import Dataset, DatasetConfig
from hrt_mm.sample import Sample

from ..splits import Part, check_split, hash_split
from .text import Text

log = logging.getLogger(__name__)

_AROUND = 3
"""Bytes on both sides of a window that are read as well, to complete characters there."""
_INSTALLED = ("site-packages", "dist-packages")


class Source(ABC):
    """Documents that lie somewhere, with the bytes that each one has.

    Args:
        names: for messages.
        sizes: bytes of each.
        keys: what decides their splits, wherever the data lies; the names when absent.
    """

    empty: Sequence[str] = ()
    """Names of documents that were left out, as there is nothing in them."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], keys: Sequence[str] | None = None) -> None:
        self.names = list(names)
        self.keys = self.names if keys is None else list(keys)
        self.sizes = np.asarray(sizes, dtype=np.int64)

    @abstractmethod
    def read(self, document: int, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a document.

        Raises:
            BadSample: it cannot be read, or is not what it was.
        """

    @abstractmethod
    def taken(self, documents: np.ndarray) -> Source:
        """Some of the documents, in this order."""


class Files(Source):
    """A document a file.

    Args:
        root: where names start.
        names: paths from there.
        sizes: bytes of each.
        keys: what decides their splits; the names when absent.
    """

    def __init__(
        self, root: Path, names: Sequence[str], sizes: Sequence[int], keys: Sequence[str] | None = None
    ) -> None:
        super().__init__(names, sizes, keys)
        self.root = root

    def read(self, document: int, start: int, end: int) -> bytes:
        """Part of a file."""
        name = self.names[document]
        try:
            with (self.root / name).open("rb") as file:
                file.seek(start)
                found = file.read(end - start)
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        if len(found) != end - start:
            raise BadSample(name, f"is shorter than the {self.sizes[document]} bytes it had when the run began")
        return found

    def taken(self, documents: np.ndarray) -> Files:
        """Some of the files."""
        names, keys = ([of[place] for place in documents] for of in (self.names, self.keys))
        return Files(self.root, names, self.sizes[documents], keys)


class Lines(Source):
    """A document a line of JSONL.

    Args:
        files: the files.
        places: (N, 3) file, offset and length of each line in bytes.
        key: of the text in a line.
        sizes: bytes of each text.
    """

    def __init__(self, files: Sequence[Path], places: np.ndarray, key: str, sizes: Sequence[int]) -> None:
        super().__init__([f"{files[file].name}:{start}" for file, start, _ in places], sizes)
        self.files, self.places, self.key = list(files), places, key

    def read(self, document: int, start: int, end: int) -> bytes:
        """Part of a line's text."""
        number, offset, length = self.places[document]
        try:
            with self.files[number].open("rb") as file:
                file.seek(offset)
                text = json.loads(file.read(length))[self.key].encode()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadSample(self.names[document], f"cannot be read any more: {error}") from error
        if len(text) != self.sizes[document]:
            raise BadSample(self.names[document], "is not what it was when the run began")
        found: bytes = text[start:end]
        return found

    def taken(self, documents: np.ndarray) -> Lines:
        """Some of the lines."""
        return Lines(self.files, self.places[documents], self.key, self.sizes[documents])


class Corpus(Dataset):
    """Windows over the documents of a source, each document behind a separator.

    Training windows start anywhere: each has its share of the corpus, moved by up to a window at random. Others lie
    edge to edge and share one token, so that every token but the first is predicted exactly once. Under a tokenizer of
    subwords they share a character, of which the last subword alone is in the later window, and the same holds.

    Args:
        source: the documents.
        context: tokens of a window, with bytes for tokens.
        training: move windows at random.
    """

    def __init__(self, source: Source, context: int, *, training: bool) -> None:
        self.source, self.context, self.training = source, context, training
        # In the stream of tokens a document is its separator and its bytes.
        self.ends = np.cumsum(source.sizes + 1)
        self.total = int(self.ends[-1]) if len(self.ends) else 0

    def __len__(self) -> int:
        if self.training:
            return max(1, self.total // self.context)
        return max(1, -(-(self.total - 1) // (self.context - 1)))

    def __getitem__(self, index: int) -> Sample:
        """A window.

        Raises:
            BadSample: a file of it cannot be read.
        """
        if self.training:
            shift = int(torch.randint(self.context, ()))
            start = max(0, min(index * self.context + shift, self.total - self.context))
        else:
            start = index * (self.context - 1)
        end = min(start + self.context, self.total)
        return Sample(self._window(start, end), None, f"{self._name(start)}")

    def shape(self, index: int) -> Sequence[int]:
        """(tokens, 0)."""
        start = 0 if self.training else index * (self.context - 1)
        return min(self.context, self.total - start), 0

    def _name(self, place: int) -> str:
        document, offset = self._locate(place)
        return f"{self.source.names[document]}@{offset}"

    def _locate(self, place: int) -> tuple[int, int]:
        """The document of a place in the stream, and the byte there; the separator counts as byte 0."""
        document = int(np.searchsorted(self.ends, place, side="right"))
        begin = int(self.ends[document] - self.source.sizes[document])
        return document, max(0, place - begin)

    def _window(self, start: int, end: int) -> Text:
        parts: list[bytes] = []
        documents: list[int] = []
        length, around = 0, (b"", b"")
        for document in range(int(np.searchsorted(self.ends, start, side="right")), len(self.ends)):
            begin = int(self.ends[document] - self.source.sizes[document])
            if begin - 1 >= end:
                break
            if begin - 1 >= start:
                documents.append(length)
            first, last = max(start, begin), min(end, int(self.ends[document]))
            if last > first:
                low, high = max(begin, first - _AROUND), min(int(self.ends[document]), last + _AROUND)
                raw = self.source.read(document, low - begin, high - begin)
                parts.append(raw[first - low : last - low])
                around = around[0] or raw[: first - low], raw[last - low :]
                length += last - first
        return Text(b"".join(parts), tuple(documents), around=around)


class CorpusConfig(DatasetConfig):
    """Documents for language models; the sources of Python's standard library when no files are named."""

    type: Literal["corpus"]
    files: tuple[Path, ...] = ()
    """Files and folders, a document a file; ``.jsonl`` files have a document a line."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files that count in folders, such as ``.txt``; all when empty."""
    text_key: str = "text"
    """Key of the text in a line of JSONL."""
    val_files: tuple[Path, ...] = ()
    """Files and folders of the validation split."""
    test_files: tuple[Path, ...] = ()
    """Files and folders of the test split."""
    val: Part | None = 0.05
    """Part of the documents for validation, chosen by a hash of their paths in ``files``; null for none. With
    ``val_files`` none are taken from ``files``, and a part is refused."""
    test: Part | None = 0.05
    """Part of the documents for testing, likewise."""
    split_seed: int = 0
    """Chooses, with the hash, which documents these are."""
    context: PositiveInt = 2048
    """Tokens of a window where tokens are bytes. Other tokenizers get texts of as many bytes."""

    @model_validator(mode="after")
    def _possible(self) -> CorpusConfig:
        if self.context < 2:
            raise ValueError(f"context {self.context} leaves nothing to predict; it must be 2 or more")
        if (self.val_files or self.test_files) and not self.files:
            raise ValueError("val_files and test_files need files, for training")
        files = (*self.files, *self.val_files, *self.test_files)
        lines = any(_is_lines(file) for file in files)
        if self.text_key != "text" and not lines:
            raise ValueError(f"text_key {self.text_key} has no effect without a .jsonl file; drop it")
        if self.suffixes and (lines or not files):
            raise ValueError(f"suffixes {', '.join(self.suffixes)} have no effect without folders in files; drop them")
        for name, own in (("val", self.val_files), ("test", self.test_files)):
            part = getattr(self, name)
            if own and part is not None and name in self.model_fields_set:
                raise ValueError(
                    f"{name} {part:g} has no effect beside {name}_files; drop one of them. Where a file that this one "
                    f"extends gives {name}, write {name}: null"
                )
        val, test = self._parts()
        if val + test >= 1:
            raise ValueError(f"val {val:g} and test {test:g} leave nothing to train on")
        return self

    def build(self, split: str) -> Corpus:
        """The windows of a split.

        Raises:
            ConfigError: a file or folder is missing or has nothing to read, or the split is empty.
        """
        check_split(split)
        own = {"val": self.val_files, "test": self.test_files}.get(split)
        where = f"data.{split}_files" if own else "data.files"
        source = documents(own or self.files, self.suffixes, self.text_key, where)
        if own or split == "train":
            say_empty(source, where)
        if not own:
            source = source.taken(self._chosen(split, source.keys))
        if not len(source.sizes):
            none = split != "train" and getattr(self, split) is None
            why = f"as data.{split} is null; set it" if none else "by a hash of their names; give more documents"
            fix = "" if split == "train" else f", or set data.{split}_files"
            raise ConfigError(f"data.files have no document for the {split} split, {why}{fix}")
        return Corpus(source, self.context, training=split == "train")

    def _parts(self) -> tuple[float, float]:
        """What is taken from ``files`` for validation and for testing."""
        return 0.0 if self.val_files else self.val or 0.0, 0.0 if self.test_files else self.test or 0.0

    def _chosen(self, split: str, keys: Sequence[str]) -> np.ndarray:
        val, test = self._parts()
        return np.array(
            [place for place, key in enumerate(keys) if hash_split(key, val, test, self.split_seed) == split],
            dtype=np.int64,
        )


def say_empty(source: Source, where: str) -> None:
    """Warns of documents that were left out because they are empty, how many and which is the first."""
    if source.empty:
        count = len(source.empty)
        what = "1 document is" if count == 1 else f"{count} documents are"
        more = "" if count == 1 else " is the first"
        log.warning("%s: %s empty and left out; %s%s", where, what, source.empty[0], more)


def documents(
    files: Sequence[Path], suffixes: Sequence[str] = (), key: str = "text", where: str = "data.files"
) -> Source:
    """The documents of files and folders, as :class:`CorpusConfig` names them.

    Args:
        files: those of Python's standard library when none.
        suffixes: endings of the files that count in folders; all when none.
        key: of the text in a line of JSONL.
        where: what names the files, for messages.

    Raises:
        ConfigError: one is missing or has nothing to read.
    """
    if not files:
        root = Path(sysconfig.get_paths()["stdlib"])
        inside = sorted(root / name for name in walk(root, (".py",), skipped=_INSTALLED).files)
        found = _files([(root, path) for path in inside], where, root)
        # Python's own empty files are no mistake of anyone's.
        found.empty = ()
        return found
    lines = [file for file in files if _is_lines(file)]
    if lines and len(lines) != len(files):
        raise ConfigError(f"{where} mix {lines[0]} with other kinds; give JSONL alone, or none")
    for file in files:
        if not file.exists():
            raise ConfigError(f"{where} {file}: no such file or folder")
        if not file.is_dir() and (kind := special(file.stat().st_mode)):
            raise ConfigError(f"{where} {file} is {kind}, not a file or folder")
    if lines:
        return _lines(lines, key)
    paths: list[tuple[Path, Path]] = []
    for file in files:
        home = file if file.is_dir() else file.parent
        inside = sorted(_inside(file, suffixes, where)) if file.is_dir() else [file]
        if not inside:
            kind = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
            raise ConfigError(f"{where} {file} has no file{kind}")
        paths += [(home, path) for path in inside]
    return _files(paths, where)


def _is_lines(file: Path) -> bool:
    return file.suffix.lower() == ".jsonl"


def _inside(folder: Path, suffixes: Sequence[str], where: str) -> list[Path]:
    """Files of a folder and those within, hidden ones and links that lead out of it left out."""
    listing = walk(folder, suffixes or None, files_outside=False, advice="name that folder in files")
    listing.warn(log, f"{where} {folder}", unread=False)
    return [folder / name for name in listing.files]


def _files(found: Sequence[tuple[Path, Path]], where: str, root: Path = Path()) -> Files:
    """Files that are not empty, each with the folder that its key starts at."""
    sized = [(home, path, path.stat().st_size) for home, path in found]
    full = [(home, path, size) for home, path, size in sized if size]
    if not full:
        raise ConfigError(f"{where}: every file is empty ({len(found)} of them); the first is {found[0][1]}")
    names = [path.relative_to(root).as_posix() if root != Path() else path.as_posix() for _, path, _ in full]
    keys = [path.relative_to(home).as_posix() for home, path, _ in full]
    files = Files(root, names, [size for _, _, size in full], keys)
    files.empty = [str(path) for _, path, size in sized if not size]
    return files


def _lines(files: Sequence[Path], key: str) -> Lines:
    places, sizes, empty = [], [], []
    for number, file in enumerate(files):
        offset = 0
        with file.open("rb") as lines:
            for count, line in enumerate(lines, 1):
                if line.strip():
                    size = _text_bytes(line, key, f"{file}:{count}")
                    if size:
                        places.append((number, offset, len(line)))
                        sizes.append(size)
                    else:
                        empty.append(f"{file}:{count}")
                offset += len(line)
    if not places:
        raise ConfigError(f"{', '.join(map(str, files))}: no line has a text; {len(empty)} have an empty one")
    found = Lines(files, np.array(places, dtype=np.int64), key, sizes)
    found.empty = empty
    return found


def _text_bytes(line: bytes, key: str, place: str) -> int:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ConfigError(f"{place} is JSON nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{place} is no JSON: {error}") from error
    if not isinstance(row, dict) or key not in row:
        have = f"it has {', '.join(row)}" if isinstance(row, dict) else f"it is a {type(row).__name__}"
        raise ConfigError(f"{place} has no text at {key!r}; {have}. Set data.text_key")
    if row[key] is None:
        raise ConfigError(f"{place}: the text at {key!r} is null; fill it in, or drop the line")
    if not isinstance(row[key], str):
        raise ConfigError(f"{place}: {key!r} must be a text, got {row[key]!r:.60}")
    try:
        return len(row[key].encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place}: {key!r} has a lone surrogate, which no UTF-8 can hold: {error}") from error
