"""Where the documents of a corpus lie: a file a document, or a line of JSONL a document.

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

from .contents import Place, readable

_AS_BYTES = "Bytes of any kind are taken with data.raw_bytes: true"


class DocumentSource(ABC):
    """Documents that lie somewhere, with the bytes that each one has.

    Args:
        names: for messages.
        sizes: bytes of each.
        keys: what decides their splits, wherever the data lies; the names when absent.
    """

    empty: Sequence[str] = ()
    """Names of documents that were left out, as there is nothing in them."""
    no_text: Sequence[str] = ()
    """Names of files that were left out, as they are no text, with the reasons."""
    other: Sequence[str] = ()
    """Names of files that are not in UTF-8."""

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
    def select(self, documents: np.ndarray) -> DocumentSource:
        """Some of the documents, in this order."""


class Files(DocumentSource):
    """A document a file.

    Args:
        root: where names start.
        names: paths from there.
        sizes: bytes of each.
        keys: what decides their splits; the names when absent.
        texts: by name, where the text is read in place of the file, and the bytes before it.
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
        path, before = self.texts.get(name) or (self.root / name, 0)
        try:
            with path.open("rb") as file:
                file.seek(before + start)
                data = file.read(end - start)
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        if len(data) != end - start:
            raise BadSample(name, f"is shorter than the {self.sizes[document]} bytes it had when the run began")
        return data

    def select(self, documents: np.ndarray) -> Files:
        """Some of the files."""
        names, keys = ([of[index] for index in documents] for of in (self.names, self.keys))
        return Files(self.root, names, self.sizes[documents], keys, self.texts)


class JsonlLines(DocumentSource):
    """A document a line of JSONL.

    Args:
        files: the files.
        locations: (N, 3) file, offset and length of each line in bytes.
        key: of the text in a line.
        sizes: bytes of each text.
        texts: where the files are read, if they are compressed.
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
    """A document a file; what is empty or no text is left out.

    Args:
        paths: files, each with the folder that its key starts at.
        where: what names the files, for messages.
        root: the folder that names start at.
        named: files that must be text.
        raw_bytes: take files as they are, whatever they hold.

    Raises:
        ConfigError: a file cannot be read, one that was named is no text, or all are empty or no text.
    """
    full, empty, no_text, other = [], [], [], []
    texts = {}
    for home, path in paths:
        name = path.relative_to(root).as_posix() if root != Path() else path.as_posix()
        try:
            readable_file = Place(path) if raw_bytes else readable(path)
            size = readable_file.path.stat().st_size - readable_file.before
        except NotText as error:
            if path in named:
                raise ConfigError(f"{where} {path} {error.reason}. {_AS_BYTES}") from error
            no_text.append(f"{path}, which {error.reason}")
            continue
        except OSError as error:
            raise ConfigError(f"{where} {path} cannot be read: {error.strerror}") from error
        if not size:
            empty.append(str(path))
            continue
        if not readable_file.utf8:
            other.append(str(path))
        if (readable_file.path, readable_file.before) != (path, 0):
            texts[name] = (readable_file.path, readable_file.before)
        full.append((name, path.relative_to(home).as_posix(), size))
    if not full and no_text:
        raise ConfigError(f"{where}: no file is text ({len(paths)} of them); {no_text[0]}. {_AS_BYTES}")
    if not full:
        raise ConfigError(f"{where}: every file is empty ({len(paths)} of them); the first is {paths[0][1]}")
    names, keys, sizes = zip(*full, strict=True)
    files = Files(root, names, sizes, keys, texts)
    files.empty, files.no_text, files.other = empty, no_text, other
    return files


def lines_source(files: Sequence[Path], key: str, where: str) -> JsonlLines:
    """A document a line of JSONL, whose files may be compressed.

    Args:
        files: the files.
        key: of the text in a line.
        where: what names the files, for messages.

    Raises:
        ConfigError: a file cannot be read, or a line has no text; names the line.
    """
    locations, sizes, empty = [], [], []
    texts = []
    for number, file in enumerate(files):
        try:
            readable_file = readable(file)
            text, offset = readable_file.path, readable_file.before
        except NotText as error:
            raise ConfigError(f"{where} {file} {error.reason}") from error
        except OSError as error:
            raise ConfigError(f"{where} {file} cannot be read: {error.strerror}") from error
        texts.append(text)
        with text.open("rb") as lines:
            lines.seek(offset)
            for count, line in enumerate(lines, 1):
                if line.strip():
                    size = _text_bytes(line, key, f"{file}:{count}")
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


def _text_bytes(line: bytes, key: str, location: str) -> int:
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
