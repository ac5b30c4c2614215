"""File formats of checkpoints and indexes: JSON with a schema number and a checksum, NumPy arrays and safetensors.

Files may be damaged, truncated, of another version, or malicious. Readers return what was written, or raise a
:class:`~hrt_mm.core.errors.UserError` that names the file and the fix. Nothing is unpickled, and no memory is allocated
for sizes in a header that the file does not have.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from ..core.errors import UserError
from .files import special

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Content = bytes
"""Alias of ``bytes``, for use in :class:`Sum`, which has a field of that name."""
CHECKSUM_KEY = "checksum"
"""Key of a JSON object with the checksum of the other keys."""
_BROKEN_HEADER = (ValueError, SyntaxError, TokenError, TypeError, MemoryError, RecursionError, Warning)
"""Exceptions that NumPy raises for invalid headers."""


def checksum(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. It is read in chunks.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(data: bytes | str, where: str, error: type[UserError] = UserError) -> Any:
    """Parses JSON.

    Args:
        data: the text, in UTF-8 if it is bytes.
        where: the file, for messages.
        error: class of the exception.

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise error(f"{where} is damaged: its JSON is nested too deeply") from None
    except (ValueError, MemoryError) as reason:
        raise error(f"{where} is damaged: {reason}") from reason


@dataclass(frozen=True)
class Format:
    """A JSON file format: an object with a schema number and, since schema 2, a checksum.

    Args:
        what: the folder with such a file, for messages such as "is not an index".
        remedy: the fix for a damaged file, for messages.
        schema: number to write. All from 1 to it are read.
        error: class of the exceptions.
    """

    what: str
    remedy: str
    schema: int = 2
    error: type[UserError] = UserError

    def damaged(self, path: Path, reason: object) -> UserError:
        """The error for a damaged file."""
        return self.error(f"{path} is damaged: {reason}; {self.remedy}")

    def encode(self, value: Mapping[str, Any]) -> bytes:
        """Encodes an object with schema number and checksum."""
        plain = json.loads(json.dumps({"schema": self.schema, **value}))
        return json.dumps(plain | {CHECKSUM_KEY: _checksum_of(plain)}, indent=1).encode()

    def read(self, path: Path) -> dict[str, Any]:
        """Reads the object in a file.

        Raises:
            UserError: the file is missing, damaged, or written by a newer version.
        """
        try:
            _regular(path, self.remedy, self.error)
            data = path.read_bytes()
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror}"
            raise self.error(f"{path.parent} is not {self.what}: {reason}") from error
        try:
            value = parse_json(data, str(path))
        except UserError as error:
            raise self.error(f"{error}; {self.remedy}") from error
        if not isinstance(value, dict):
            raise self.damaged(path, f"it holds a {type(value).__name__}, not an object")
        schema = value.get("schema")
        if isinstance(schema, int) and schema > self.schema:
            raise self.error(
                f"{path} has schema {schema!r}, this version reads up to {self.schema}; use the version that wrote it"
            )
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise self.damaged(path, f"it has schema {schema!r}")
        if schema > 1:
            saved_checksum = value.pop(CHECKSUM_KEY, None)
            if saved_checksum != _checksum_of(value):
                raise self.damaged(path, "its content does not match its checksum")
        return value

    def check(self, path: Path, value: Any, kind: TypeAdapter[T]) -> T:
        """Validates a part of the object.

        Raises:
            UserError: names the first key that is missing or of the wrong type.
        """
        try:
            return kind.validate_python(value)
        except ValidationError as error:
            raise self.damaged(path, first_mistake(error)) from error
        except RecursionError as error:
            raise self.damaged(path, "its JSON is nested too deeply") from error


def first_mistake(error: ValidationError) -> str:
    """The first key that is missing or of the wrong type, and the reason, on one line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]


def _checksum_of(value: Mapping[str, Any]) -> str:
    try:
        return checksum(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    except RecursionError:
        return ""


@dataclass(frozen=True)
class Sum:
    """Expected size and checksum of a file.

    Args:
        bytes: size.
        sha256: checksum, in hexadecimal.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, data: Content) -> Sum:
        """From the content of a file."""
        return cls(len(data), checksum(data))

    @classmethod
    def of_file(cls, path: Path) -> Sum:
        """From a file, which is read in chunks.

        Raises:
            OSError: it cannot be read.
        """
        return cls(os.path.getsize(path), file_checksum(path))

    def check(self, path: Path, remedy: str, error: type[UserError] = UserError, *, content: bool = True) -> None:
        """Verifies a file.

        Args:
            path: the file.
            remedy: the fix for a damaged file, for messages.
            error: class of the exception.
            content: verify the checksum as well as the size.

        Raises:
            UserError: the file is missing or differs.
        """
        try:
            size = _regular(path, remedy, error).st_size
            if size != self.bytes:
                kind = "cut short" if size < self.bytes else "damaged"
                raise error(f"{path} is {kind}: expected {self.bytes} bytes, found {size}; {remedy}")
            if content and file_checksum(path) != self.sha256:
                raise error(f"{path} is damaged: its {size} bytes are not those that were saved; {remedy}")
        except FileNotFoundError:
            raise error(f"{path} is missing; {remedy}") from None
        except OSError as reason:
            raise error(f"{path} cannot be read: {reason.strerror}; {remedy}") from reason


def _regular(path: Path, remedy: str, error: type[UserError]) -> os.stat_result:
    """Checks that a path is a regular file before it is opened, as opening a FIFO blocks.

    Raises:
        UserError: it is a folder, FIFO, socket or device.
        OSError: it is missing or cannot be reached.
    """
    status = path.stat()
    if (other := special(status.st_mode)) is not None:
        raise error(f"{path} is {other}, not a file; {remedy}")
    return status


def array_bytes(values: np.ndarray) -> bytes:
    """Encodes an array in NumPy's format."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def read_array(path: Path, dtype: Any, ndim: int, remedy: str, *, mapped: bool = False) -> np.ndarray:
    """Reads an array in NumPy's format.

    Args:
        path: the file.
        dtype: expected.
        ndim: expected.
        remedy: the fix for a damaged file, for messages.
        mapped: memory-map the file instead of reading it.

    Raises:
        UserError: the file is missing or damaged, or holds an array of another kind.
    """
    try:
        _regular(path, remedy, UserError)
        with path.open("rb") as file:
            shape, fortran, actual_dtype = _header(file)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
            if actual_dtype != np.dtype(dtype) or len(shape) != ndim:
                raise UserError(f"{path} is damaged: it holds {actual_dtype} of {len(shape)} axes; {remedy}")
            count = int(np.prod([int(length) for length in shape], dtype=object))
            if size != start + count * actual_dtype.itemsize:
                raise UserError(
                    f"{path} is damaged: its header gives the shape {shape}, and it has {size:,} bytes; {remedy}"
                )
            # An empty array cannot be mapped.
            if mapped and count:
                return np.asarray(np.memmap(path, actual_dtype, "r", start, shape, "F" if fortran else "C"))
            values = np.frombuffer(file.read(), actual_dtype)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from error
    except UserError:
        raise
    except _BROKEN_HEADER as error:
        raise UserError(f"{path} is damaged: {error}; {remedy}") from error
    return values.reshape(shape, order="F" if fortran else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"NumPy's format {version[0]}.{version[1]} is not supported")
    if dtype.hasobject or any(not isinstance(length, int) or length < 0 for length in shape):
        raise ValueError(f"its header gives {dtype} of shape {shape}")
    return shape, fortran, dtype


def read_tensors(
    path: Path, remedy: str, error: type[UserError] = UserError
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Reads the metadata and the tensors of a safetensors file, on the host.

    Args:
        path: the file.
        remedy: the fix for a damaged file, for messages.
        error: class of the exception.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        _regular(path, remedy, error)
        with safe_open(path, "pt") as file:
            # Cloned, as the tensors are views of the mapped file, which may change.
            return dict(file.metadata() or {}), {name: file.get_tensor(name).clone() for name in list(file.keys())}
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}; {remedy}") from reason
    except UserError:
        raise
    except (SafetensorError, ValueError, RuntimeError, MemoryError) as reason:
        raise error(f"{path} is damaged, or no safetensors file: {reason}; {remedy}") from reason
