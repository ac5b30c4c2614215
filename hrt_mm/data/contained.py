"""Files whose bytes lie within other files, such as a column of a table or an archive.

Readers open paths. The bytes of a contained file are therefore put into an unnamed file of the process for as long as
they are needed: in memory on Linux, elsewhere in a temporary file. Nothing is extracted under a name from the data.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol
from weakref import finalize

from ..core.errors import BadSample

_OPEN = 8
"""Contained files that stay readable at a time, per thread: a sample has one per tower, and readers reopen files."""


class FileContainer(Protocol):
    """A file that contains files. It is sent to workers, so open handles must not be pickled."""

    @property
    def identity(self) -> str:
        """Differs if the content may differ: path, size and modification time."""

    def read(self, key: int) -> bytes:
        """The bytes of a contained file.

        Raises:
            OSError, ValueError: they cannot be read; says why.
        """

    def size(self, key: int) -> int:
        """Size of a contained file in bytes, possibly the average of several, without reading it.

        Raises:
            OSError, ValueError: it is not known.
        """


class FileBytes:
    """The bytes of a file that is in memory.

    Args:
        content: the bytes.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    @cached_property
    def identity(self) -> str:
        """A checksum."""
        return blake2b(self.content, digest_size=16).hexdigest()

    def read(self, key: int) -> bytes:
        """The bytes."""
        return self.content

    def size(self, key: int) -> int:
        """Number of bytes."""
        return len(self.content)


@dataclass(frozen=True)
class FileCell:
    """A cell of a table that has the bytes of a file, without the bytes.

    Args:
        source: reads them.
        key: of the file in the source.
        name: of the file; that of the row if empty.
    """

    source: FileContainer
    key: int
    name: str = ""

    def __repr__(self) -> str:
        return "the bytes of a file"


class ContainedFile(str):
    """The name of a contained file. It stands where the path of a file is expected: in items, splits and messages."""

    __slots__ = ("key", "source")

    source: FileContainer
    key: int

    def __new__(cls, name: str, source: FileContainer, key: int) -> ContainedFile:
        """The name, with where the bytes are.

        Args:
            name: for messages; unique in a dataset.
            source: reads the bytes.
            key: of the file in the source.
        """
        contained = super().__new__(cls, name)
        contained.source, contained.key = source, key
        return contained

    def __reduce__(self) -> tuple[type[ContainedFile], tuple[str, FileContainer, int]]:
        return type(self), (str(self), self.source, self.key)

    @property
    def identity(self) -> str:
        """Differs if the content may differ."""
        return f"{self.source.identity} {self.key}"

    def size(self) -> int:
        """Size in bytes, possibly the average of several files, without reading it.

        Raises:
            OSError, ValueError: it is not known.
        """
        return self.source.size(self.key)

    def path(self) -> Path:
        """A path to the bytes, valid until the thread asks for several other files.

        Raises:
            BadSample: they cannot be read.
        """
        identity = self.identity
        files = _files.by_identity
        if identity not in files:
            try:
                content = self.source.read(self.key)
                files[identity] = _OpenFile(content, identity)
            except (OSError, ValueError) as error:
                raise BadSample(str(self), f"cannot be read: {error}") from error
            while len(files) > _OPEN:
                files.popitem(last=False)
        files.move_to_end(identity)
        return files[identity].path


class _OpenFile:
    """Bytes under a path, until the object is collected.

    Args:
        content: the bytes.
        identity: of the content. It determines the modification time, by which readers recognize a file.
    """

    def __init__(self, content: bytes, identity: str) -> None:
        digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=7)
        if sys.platform == "linux":
            descriptor = os.memfd_create(digest.hexdigest())
            finalize(self, os.close, descriptor)
            self.path = Path(f"/proc/self/fd/{descriptor}")
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
        else:
            with NamedTemporaryFile(prefix="hrt-mm-", delete=False) as file:
                self.path = Path(file.name)
                finalize(self, self.path.unlink, missing_ok=True)
                file.write(content)
        time = int.from_bytes(digest.digest(), "big")
        os.utime(self.path, ns=(time, time))


class _Files(threading.local):
    def __init__(self) -> None:
        self.by_identity: OrderedDict[str, _OpenFile] = OrderedDict()


_files = _Files()
