"""Shards where they lie: local files, and objects of any file system of fsspec by URL, read by ranges of bytes."""

from __future__ import annotations

import os
import re
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from hashlib import blake2b
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import ConfigError
from .files import special

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
MAX_SHARDS = 100_000
"""Maximum number of shards that a pattern stands for."""
_BLOCK = 1 << 20
"""Bytes that are read ahead of a remote shard."""
_OPEN = 4
"""Remote shards that stay open at a time, per process."""
_VERSIONS = ("size", "ETag", "etag", "mtime", "LastModified", "Last-Modified", "created", "updated", "generation",
             "md5Hash", "Content-MD5", "Digest", "last_modified")  # fmt: skip
"""What file systems tell of an object that changes with its content."""


class RangesRefused(OSError):
    """A server that does not answer requests for ranges of bytes."""


class Location(ABC):
    """Where a shard lies. It is sent to workers, so it has no open handle."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def stamp(self) -> str:
        """Differs if the content may differ.

        Raises:
            OSError, ValueError: the shard is missing, or cannot be reached.
        """

    @abstractmethod
    def open(self) -> BinaryIO:
        """Opens the shard, to be read at any position.

        Raises:
            OSError, ValueError: it is missing, or cannot be reached.
        """

    @abstractmethod
    def read(self, start: int, size: int, stamp: str) -> bytes:
        """The bytes at a position; fewer at the end of the file.

        Args:
            start: position of the first byte.
            size: number of bytes.
            stamp: of the shard when it was indexed.

        Raises:
            OSError, ValueError: they cannot be read, or the shard was changed.
        """


@dataclass(frozen=True)
class LocalFile(Location):
    """A file on a local disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def stamp(self) -> str:
        status = self.path.stat()
        if (kind := special(status.st_mode)) is not None:
            raise ValueError(f"it is {kind}, not a file")
        return f"{self.path.absolute()} {(status.st_size, status.st_mtime_ns)}"

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def read(self, start: int, size: int, stamp: str) -> bytes:
        _check_unchanged(self, stamp)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)


@dataclass(frozen=True)
class RemoteFile(Location):
    """An object by its URL. Its server must answer requests for ranges of bytes."""

    url: str

    def __str__(self) -> str:
        return self.url

    def stamp(self) -> str:
        with _errors():
            system, path = _system(self.url)
            info = system.info(path)
        if info.get("type") == "directory":
            raise ValueError("it is a folder, not a file")
        return f"{self.url} {[(key, str(info[key])) for key in _VERSIONS if key in info]}"

    def open(self) -> BinaryIO:
        with _errors():
            system, path = _system(self.url)
            return _Remote(system.open(path, "rb", block_size=_BLOCK))  # type: ignore[return-value]

    def read(self, start: int, size: int, stamp: str) -> bytes:
        try:
            return _handles.read(self, start, size, stamp)
        except (OSError, ValueError):
            # A server may close a connection that was idle.
            _handles.drop(self)
            return _handles.read(self, start, size, stamp)

    def fetch(self, folder: Path) -> LocalFile:
        """Copies the shard into a folder, unless it is there.

        Raises:
            OSError, ValueError: it cannot be read, or the copy cannot be written.
        """
        with _errors():
            digest = blake2b(self.stamp().encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            copy = folder / f"{digest}-{Path(self.url).name}"
            if copy.is_file():
                return LocalFile(copy)
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{copy.name}.{os.getpid()}.partial"
            system, path = _system(self.url)
            try:
                system.get_file(path, str(partial))
                expected, size = system.info(path).get("size"), partial.stat().st_size
                if expected is not None and size != expected:
                    raise OSError(f"the transfer ended after {size:,} of {expected:,} bytes")
                partial.replace(copy)
            finally:
                partial.unlink(missing_ok=True)
            return LocalFile(copy)


class _Remote:
    """A file of fsspec whose errors are of the kinds that local files raise."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        with _errors():
            content: bytes = self._file.read(size)
            return content

    def seek(self, position: int, whence: int = 0) -> int:
        with _errors():
            return int(self._file.seek(position, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Handles:
    """Open files of this process. Those of a process that was forked are left to it: their connections are shared."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._process = os.getpid()
        self._lock = threading.Lock()

    def read(self, file: RemoteFile, start: int, size: int, stamp: str) -> bytes:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if file.url not in self._files:
                # Checked when the file is opened, as each check is a request.
                _check_unchanged(file, stamp)
                self._files[file.url] = file.open()
            self._files.move_to_end(file.url)
            while len(self._files) > _OPEN:
                self._files.popitem(last=False)[1].close()
            handle = self._files[file.url]
            handle.seek(start)
            return handle.read(size)

    def drop(self, file: RemoteFile) -> None:
        with self._lock:
            self._files.pop(file.url, None)


_handles = _Handles()


def _check_unchanged(location: Location, stamp: str) -> None:
    if location.stamp() != stamp:
        raise ValueError("the shard was changed after it was indexed; start again")


def shards_of(pattern: str) -> list[Location]:
    """The shards that a path or URL stands for.

    Args:
        pattern: a path, or a URL of fsspec such as ``s3://bucket/train-{000..009}.tar``. ``{000..009}`` and ``{a,b}``
            stand for several, and ``*`` for any part of a name.

    Raises:
        ConfigError: a pattern matches nothing, stands for too many, or the library of its protocol is missing.
    """
    locations: list[Location] = []
    for name in _expanded(pattern):
        if _URL.match(name) is None:
            names = sorted(glob(name)) if has_magic(name) and not Path(name).exists() else [name]
            locations += [LocalFile(Path(match)) for match in names]
        elif "*" in name:
            try:
                with _errors():
                    system, path = _system(name)
                    locations += [RemoteFile(system.unstrip_protocol(match)) for match in sorted(system.glob(path))]
            except ConfigError:
                raise
            except (OSError, ValueError) as error:
                raise ConfigError(f"{name} cannot be listed: {error}") from error
        else:
            locations.append(RemoteFile(name))
    if not locations:
        raise ConfigError(f"nothing matches {pattern}")
    return locations


def _expanded(pattern: str) -> list[str]:
    names = [pattern]
    while any(_RANGE.search(name) for name in names):
        alternatives = (alternative for name in names for alternative in _alternatives(name))
        names = list(islice(alternatives, MAX_SHARDS + 1))
        if len(names) > MAX_SHARDS:
            raise ConfigError(f"{pattern} stands for more than {MAX_SHARDS:,} shards")
    return names


def _alternatives(name: str) -> Iterator[str]:
    match = _RANGE.search(name)
    if match is None:
        yield name
        return
    values: list[str]
    if match[3] is not None:
        values = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= MAX_SHARDS:
            raise ConfigError(
                f"{name}: {match[0]} must lead from a number to a larger one, over {MAX_SHARDS:,} at most"
            )
        width = len(match[1]) if match[1].startswith("0") else 0
        values = [f"{number:0{width}}" for number in range(first, last + 1)]
    for value in values:
        yield f"{name[: match.start()]}{value}{name[match.end() :]}"


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, which is one object per process, and the path in it."""
    # torch requires it.
    fsspec: Any = import_module("fsspec.core")
    try:
        system, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{url} needs a library for its protocol: {error}") from error
    return system, path


@contextmanager
def _errors() -> Iterator[None]:
    """Turns the exceptions of file systems, which are of many kinds, into :class:`OSError`."""
    try:
        yield
    except Exception as error:
        if "range requests" in str(error):
            raise RangesRefused(
                "the server does not answer requests for ranges of bytes; set data.shard_cache to a folder for copies"
            ) from error
        if isinstance(error, OSError | ValueError):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error
