"""Walks through folders of files, and classes by the names of folders."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from hrt_mm.errors import ConfigError


def files_under(root: Path, suffixes: Collection[str], follow_links: bool = False) -> Iterator[str]:
    """Paths of files from the root, in order; hidden ones are left out.

    Args:
        root: the folder.
        suffixes: how the names of files end, in lower case.
        follow_links: go into folders that are links.
    """
    for parent, folders, files in os.walk(root, followlinks=follow_links):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in suffixes:
                yield Path(parent, file).relative_to(root).as_posix()


def class_of(name: str, place: int, root: Path) -> str:
    """The folder that names the class of a file.

    Args:
        name: path of the file from the root.
        place: folders above that of the class.
        root: for the message.

    Raises:
        ConfigError: the file lies in no such folder.
    """
    parts = name.split("/")
    if len(parts) < place + 2:
        raise ConfigError(f"data.root {root}: {name} lies in no folder of a class; expected {'SPLIT/' * place}CLASS/*")
    return parts[place]


def need_root(root: Path, holds: str = "") -> None:
    """Checks that a folder of data is there.

    Raises:
        ConfigError: it is not, or lacks what it must hold.
    """
    if not root.is_dir():
        raise ConfigError(f"data.root {root} is not a folder")
    if holds and not (root / holds).exists():
        raise ConfigError(f"data.root {root} holds no {holds}")
