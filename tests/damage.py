"""Files that are damaged in every way that tests try, and disks that are full."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import UserError
from hrt_mm.data.storage import array_bytes

Change = tuple[str, bytes]


def flips(data: bytes, count: int) -> Iterator[Change]:
    """Single bits that are flipped, the same ones each time: at the beginning, the end, and in between."""
    draw = np.random.default_rng(len(data))
    bits = {*range(min(8 * len(data), count // 4)), *draw.integers(0, 8 * len(data), count).tolist(), 8 * len(data) - 1}
    for bit in sorted(bits):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8} is flipped", bytes(changed)


def cuts(data: bytes, count: int) -> Iterator[Change]:
    """Beginnings of a file, and one with something behind it."""
    for size in sorted({0, 1, len(data) - 1, *np.linspace(0, len(data) - 1, count).astype(int).tolist()}):
        yield f"cut at {size}", data[:size]
    yield "longer", data + b"\0"


def other_content() -> Iterator[Change]:
    """Content of another kind."""
    draw = np.random.default_rng(0)
    yield "noise", draw.bytes(300)
    yield "deep", b"[" * 100_000
    yield "deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    for text in (b"null", b"[]", b"{}", b"3", b'{"schema": 1}', b'{"schema": true}', b'{"schema": 99}', b"\xff\xfe{}"):
        yield repr(text), text
    yield "long number", b'{"schema": ' + b"9" * 5_000 + b"}"
    yield "many", header((2**60,))
    yield "negative", header((-1,))
    yield "no shape", header("x")
    yield "overflow", header((2**62, 2**62))
    yield "objects", header((2,), "|O")
    yield "pickled", array_bytes(np.zeros(1)).replace(b"<f8", b"|O ")
    yield "floats", array_bytes(np.zeros(3, np.float32))
    yield "two axes", array_bytes(np.zeros((2, 2), np.int64))


def header(shape: object, dtype: str = "<i8") -> bytes:
    """A file in NumPy's format that holds less than it claims."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)


def try_all(
    path: Path,
    use: Callable[[], Any],
    *,
    bits: int = 120,
    ends: int = 12,
    same: bool = True,
    others: bool = True,
    names: str = "",
) -> None:
    """Damages a file in many ways. Each must give an error for users that names it, or what the whole file gives.

    Args:
        path: the file; it is whole again afterwards.
        use: opens it and gives what is read.
        bits: that are flipped.
        ends: at which it is cut.
        same: that is read must be the same; files without a checksum may hold something else.
        others: put other content in its place as well.
        names: what the error must contain; the file's name when absent.
    """
    data, right = path.read_bytes(), use()
    try:
        changes = [*flips(data, bits), *cuts(data, ends), *(other_content() if others else ())]
        for what, changed in changes:
            path.write_bytes(changed)
            message = ""
            try:
                result = use()
            except UserError as error:
                message = str(error)
            except Exception as error:
                raise AssertionError(f"{path.name}, {what}: {error!r}") from error
            if message:
                assert (names or path.name) in message, f"{path.name}, {what}: {message}"
            else:
                assert not same or result == right, f"{path.name}, {what}: it is read as something else"
    finally:
        path.write_bytes(data)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file grows past so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
