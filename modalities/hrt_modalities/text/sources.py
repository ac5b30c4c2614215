"""Documents of a corpus: files, or lines of JSONL.

Shapes: N documents.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.plain_text import NotText

from .contents import SeekableText, seekable_text

_RAW_BYTES_HINT = "Bytes of any kind are taken with data.raw_bytes: true"


class DocumentSource(ABC):
    """Documents with their sizes, read in parts.

    Args:
        names: for messages.
        sizes: of the documents in bytes.
        keys: whose hashes decide the splits, independent of where the data lies; the names when absent.
    """

    empty: Sequence[str] = ()
    """Names of documents that were left out because they are empty."""
    no_text: Sequence[str] = ()
    """Names of files that were left out because they are not text, with the reasons."""
    not_utf8: Sequence[str] = ()
    """Names of files that are not in UTF-8."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], keys: Sequence[str] | None = None) -> None:
        self.names = list(names)
        self.keys = self.names if keys is None else list(keys)
        self.sizes = np.asarray(sizes, dtype=np.int64)

    @abstractmethod
    def read(self, document: int, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a document.

        Raises:
            BadSample: it cannot be read, or has changed.
        """

    @abstractmethod
    def select(self, documents: np.ndarray) -> DocumentSource:
        """Some of the documents, in this order."""


class Files(DocumentSource):
    """Documents that are files.

    Args:
        root: folder of the names.
        names: paths from the root.
        sizes: in bytes.
        keys: whose hashes decide the splits; the names when absent.
        texts: by name, the file that is read instead, and the offset of the text in it.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        sizes: Sequence[int],
        keys: Sequence[str] | None = None,
        texts: Mapping[str, tuple[Path, int]] | None = None,
    ) -> None:
        super().__init__(names, sizes, keys)
        self.root, self.texts = root, texts or {}

    def read(self, document: int, start: int, end: int) -> bytes:
        """Part of a file."""
        name = self.names[document]
        path, offset = self.texts.get(name) or (self.root / name, 0)
        try:
            with path.open("rb") as file:
                file.seek(offset + start)
                data = file.read(end - start)
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        if len(data) != end - start:
            raise BadSample(name, f"is shorter than the {self.sizes[document]} bytes it had when the run began")
        return data

    def select(self, documents: np.ndarray) -> Files:
        """Some of the files."""
        names, keys = ([values[index] for index in documents] for values in (self.names, self.keys))
        return Files(self.root, names, self.sizes[documents], keys, self.texts)


class JsonlLines(DocumentSource):
    """Documents that are lines of JSONL.

    Args:
        files: the files.
        locations: (N, 3) file, offset and length of each line in bytes.
        key: of the text in a line.
        sizes: of the texts in bytes.
        texts: the files that are read instead, if the files are compressed.
    """

    def __init__(
        self,
        files: Sequence[Path],
        locations: np.ndarray,
        key: str,
        sizes: Sequence[int],
        texts: Sequence[Path] | None = None,
    ) -> None:
        super().__init__([f"{files[file].name}:{start}" for file, start, _ in locations], sizes)
        self.files, self.locations, self.key = list(files), locations, key
        self.texts = list(texts or files)

    def read(self, document: int, start: int, end: int) -> bytes:
        """Part of a line's text."""
        number, offset, length = self.locations[document]
        try:
            with self.texts[number].open("rb") as file:
                file.seek(offset)
                text = json.loads(file.read(length))[self.key].encode()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSample(self.names[document], f"cannot be read any more: {error}") from error
        if len(text) != self.sizes[document]:
            raise BadSample(self.names[document], "is not what it was when the run began")
        data: bytes = text[start:end]
        return data

    def select(self, documents: np.ndarray) -> JsonlLines:
        """Some of the lines."""
        return JsonlLines(self.files, self.locations[documents], self.key, self.sizes[documents], self.texts)


def files_source(
    paths: Sequence[tuple[Path, Path]],
    where: str,
    root: Path = Path(),
    *,
    named: Collection[Path] = (),
    raw_bytes: bool = False,
) -> Files:
    """Documents that are files; empty files and files that are not text are left out.

    Args:
        paths: each with the folder that its key is relative to.
        where: the setting that names the files, for messages.
        root: the folder that names are relative to.
        named: files that must be text.
        raw_bytes: read files as bytes, whatever they are.

    Raises:
        ConfigError: a file cannot be read, a named one is not text, or all are empty or not text.
    """
    full, empty, no_text, not_utf8 = [], [], [], []
    texts = {}
    for home, path in paths:
        name = path.relative_to(root).as_posix() if root != Path() else path.as_posix()
        try:
            text = SeekableText(path) if raw_bytes else seekable_text(path)
            size = text.path.stat().st_size - text.offset
        except NotText as error:
            if path in named:
                raise ConfigError(f"{where} {path} {error.reason}. {_RAW_BYTES_HINT}") from error
            no_text.append(f"{path}, which {error.reason}")
            continue
        except OSError as error:
            raise ConfigError(f"{where} {path} cannot be read: {error.strerror}") from error
        if not size:
            empty.append(str(path))
            continue
        if not text.utf8:
            not_utf8.append(str(path))
        if (text.path, text.offset) != (path, 0):
            texts[name] = (text.path, text.offset)
        full.append((name, path.relative_to(home).as_posix(), size))
    if not full and no_text:
        raise ConfigError(f"{where}: no file is text ({len(paths)} of them); {no_text[0]}. {_RAW_BYTES_HINT}")
    if not full:
        raise ConfigError(f"{where}: every file is empty ({len(paths)} of them); the first is {paths[0][1]}")
    names, keys, sizes = zip(*full, strict=True)
    files = Files(root, names, sizes, keys, texts)
    files.empty, files.no_text, files.not_utf8 = empty, no_text, not_utf8
    return files


def lines_source(files: Sequence[Path], key: str, where: str) -> JsonlLines:
    """Documents that are lines of JSONL files, which may be compressed.

    Args:
        files: the files.
        key: of the text in a line.
        where: the setting that names the files, for messages.

    Raises:
        ConfigError: a file cannot be read, or a line has no text; names the line.
    """
    locations, sizes, empty = [], [], []
    texts = []
    for number, file in enumerate(files):
        try:
            text = seekable_text(file)
        except NotText as error:
            raise ConfigError(f"{where} {file} {error.reason}") from error
        except OSError as error:
            raise ConfigError(f"{where} {file} cannot be read: {error.strerror}") from error
        texts.append(text.path)
        offset = text.offset
        with text.path.open("rb") as lines:
            lines.seek(offset)
            for count, line in enumerate(lines, 1):
                if line.strip():
                    size = _text_size(line, key, f"{file}:{count}")
                    if size:
                        locations.append((number, offset, len(line)))
                        sizes.append(size)
                    else:
                        empty.append(f"{file}:{count}")
                offset += len(line)
    if not locations:
        raise ConfigError(f"{', '.join(map(str, files))}: no line has a text; {len(empty)} have an empty one")
    source = JsonlLines(files, np.array(locations, dtype=np.int64), key, sizes, texts)
    source.empty = empty
    return source


def _text_size(line: bytes, key: str, location: str) -> int:
    """Bytes of the text in a line."""
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ConfigError(f"{location} is JSON nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{location} is no JSON: {error}") from error
    if not isinstance(row, dict) or key not in row:
        have = f"it has {', '.join(row)}" if isinstance(row, dict) else f"it is a {type(row).__name__}"
        raise ConfigError(f"{location} has no text at {key!r}; {have}. Set data.text_key")
    if row[key] is None:
        raise ConfigError(f"{location}: the text at {key!r} is null; fill it in, or drop the line")
    if not isinstance(row[key], str):
        raise ConfigError(f"{location}: {key!r} must be a text, got {row[key]!r:.60}")
    try:
        return len(row[key].encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{location}: {key!r} has a lone surrogate, which no UTF-8 can hold: {error}") from error
