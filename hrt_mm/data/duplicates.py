"""Files of equal content in different splits, found with little reading: sizes first, then hashes of what is left."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import TypeAlias

Placed: TypeAlias = tuple[str, str]
"""A split and a file in it."""

_HEAD, _PIECE = 1 << 14, 1 << 20
"""Bytes that are compared first, and bytes that are read at once."""


@dataclass(frozen=True)
class Limits:
    """How much a search may read; where it would need more it is left out.

    Args:
        files: candidates at most.
        bytes: their sizes together at most.
    """

    files: int = 10_000
    bytes: int = 1 << 28


def same_content(
    files: Mapping[str, Iterable[str]], root: str | Path | None = None, limits: Limits | None = None
) -> list[tuple[Placed, ...]]:
    """Different files of equal content in different splits: of each split the first of them. Empty files do not count.

    Args:
        files: by split.
        root: files outside of it are not read.
        limits: of what is read; none when absent.

    Returns:
        One entry for each content, in the order of the files.
    """
    placed = [(split, path) for split, own in files.items() for path in dict.fromkeys(own)]
    candidates = _shared(placed, _size)
    if limits is not None:
        count = sum(map(len, candidates.values()))
        total = sum(int(str(size)) * len(own) for size, own in candidates.items())
        if count > limits.files or total > limits.bytes:
            return []
    found: list[tuple[Placed, ...]] = []
    for size, own in candidates.items():
        inside = [(split, path) for split, path in own if root is None or _within(path, root)]
        for same in _shared(inside, _head).values():
            alike = _shared(same, _whole).values() if int(str(size)) > _HEAD else [same]
            found += [_first_of_each(whole) for whole in alike]
    return found


def _first_of_each(placed: Sequence[Placed]) -> tuple[Placed, ...]:
    first: dict[str, str] = {}
    for split, path in placed:
        first.setdefault(split, path)
    return tuple(first.items())


def _shared(placed: Sequence[Placed], key: Callable[[str], Hashable | None]) -> dict[Hashable, list[Placed]]:
    """Files by a key, those keys alone that different files in different splits have."""
    by_key: dict[Hashable, list[Placed]] = defaultdict(list)
    keys: dict[str, Hashable | None] = {}
    for split, path in placed:
        if path not in keys:
            keys[path] = key(path)
        if (own := keys[path]) is not None:
            by_key[own].append((split, path))
    return {
        own: members
        for own, members in by_key.items()
        if len({split for split, _ in members}) > 1 and len({path for _, path in members}) > 1
    }


def _size(path: str) -> int | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size if S_ISREG(status.st_mode) and status.st_size else None


def _within(path: str, root: str | Path) -> bool:
    home = os.path.join(os.path.realpath(root), "")
    return os.path.realpath(path).startswith(home)


def _head(path: str) -> bytes | None:
    return _digest(path, _HEAD)


def _whole(path: str) -> bytes | None:
    return _digest(path, None)


def _digest(path: str, most: int | None) -> bytes | None:
    """The hash of a file's first bytes, or of all; nothing where it cannot be read, which is told when it is used."""
    digest = blake2b(digest_size=16)
    try:
        # Not blocking, should a pipe have taken the file's place.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            while piece := file.read(_PIECE if most is None else most):
                digest.update(piece)
                if most is not None:
                    break
    except OSError:
        return None
    return digest.digest()
