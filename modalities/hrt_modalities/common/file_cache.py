"""A cache of values that are read from files, such as their indices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hrt_mm.core.errors import BadSample

Value = TypeVar("Value")


class FileCache(Generic[Value]):
    """A least recently used cache of values by file, valid until the file changes.

    Args:
        weight: of a value, such as its number of entries.
        limit: total weight.
    """

    def __init__(self, weight: Callable[[Value], int], limit: int) -> None:
        self.weight, self.limit = weight, limit
        self._values: OrderedDict[tuple[object, ...], Value] = OrderedDict()
        self._total = 0

    def get(self, path: Path, name: str, read: Callable[[], Value], *options: object) -> Value:
        """The value of a file, read again if its size or modification time changed.

        Args:
            path: the file.
            name: of the sample, for messages.
            read: reads it.
            options: other arguments that the value depends on.

        Raises:
            BadSample: the file cannot be read.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        key = str(path.absolute()), status.st_size, status.st_mtime_ns, *options
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = read()
        self._values[key] = value
        self._total += self.weight(value)
        while self._total > self.limit:
            self._total -= self.weight(self._values.popitem(last=False)[1])
        return value
