"""Finding files of equal content in different splits: by size first, then by hashes of the candidates."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import TypeAlias

SplitFile: TypeAlias = tuple[str, str]
"""A split and a file in it."""

_HEAD, _CHUNK = 1 << 14, 1 << 20
"""Bytes that are compared first, and bytes per read."""


@dataclass(frozen=True)
class Limits:
    """Limits of a search, which is skipped if it would exceed them.

    Args:
        files: maximum number of candidates.
        bytes: maximum of their total size.
    """

    files: int = 10_000
    bytes: int = 1 << 28


def same_content(
    files: Mapping[str, Iterable[str]], root: str | Path | None = None, limits: Limits | None = None
) -> list[tuple[SplitFile, ...]]:
    """Finds different files of equal content in different splits. Empty files are ignored.

    Args:
        files: by split.
        root: files outside of it are not read.
        limits: of the search.

    Returns:
        For each content, the first file of each split that has it, in the order of ``files``.
    """
    split_files = [(split, path) for split, paths in files.items() for path in dict.fromkeys(paths)]
    candidates = _shared(split_files, _size)
    if limits is not None:
        count = sum(map(len, candidates.values()))
        total = sum(int(str(size)) * len(same_size) for size, same_size in candidates.items())
        if count > limits.files or total > limits.bytes:
            return []
    duplicates: list[tuple[SplitFile, ...]] = []
    for size, same_size in candidates.items():
        inside = [(split, path) for split, path in same_size if root is None or _within(path, root)]
        for same in _shared(inside, _head_digest).values():
            equal = _shared(same, _full_digest).values() if int(str(size)) > _HEAD else [same]
            duplicates += [_first_of_each(members) for members in equal]
    return duplicates


def _first_of_each(split_files: Sequence[SplitFile]) -> tuple[SplitFile, ...]:
    first: dict[str, str] = {}
    for split, path in split_files:
        first.setdefault(split, path)
    return tuple(first.items())


def _shared(split_files: Sequence[SplitFile], key: Callable[[str], Hashable | None]) -> dict[Hashable, list[SplitFile]]:
    """Groups files by a key, and keeps groups with different files in different splits."""
    by_key: dict[Hashable, list[SplitFile]] = defaultdict(list)
    keys: dict[str, Hashable | None] = {}
    for split, path in split_files:
        if path not in keys:
            keys[path] = key(path)
        if (group_key := keys[path]) is not None:
            by_key[group_key].append((split, path))
    return {
        group_key: members
        for group_key, members in by_key.items()
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


def _head_digest(path: str) -> bytes | None:
    return _digest(path, _HEAD)


def _full_digest(path: str) -> bytes | None:
    return _digest(path, None)


def _digest(path: str, limit: int | None) -> bytes | None:
    """The hash of a file's first ``limit`` bytes, or of all; ``None`` if it cannot be read (loading reports it)."""
    digest = blake2b(digest_size=16)
    try:
        # O_NONBLOCK, as the file may have been replaced by a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            while chunk := file.read(_CHUNK if limit is None else limit):
                digest.update(chunk)
                if limit is not None:
                    break
    except OSError:
        return None
    return digest.digest()
