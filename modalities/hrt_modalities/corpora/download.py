"""Fetches archives of data: only when asked for, only known files, checked before they are opened."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hrt_mm.core.errors import ConfigError

_BLOCK = 1 << 20
_PATIENCE = 60
"""Seconds without a byte after which the other side is taken for gone."""


@dataclass(frozen=True)
class Archive:
    """A tar file.

    Args:
        url: where it is.
        sha256: of the file.
    """

    url: str
    sha256: str


def fetch(archive: Archive, folder: Path) -> None:
    """Unpacks an archive into a folder, which is made. What is there stays.

    Raises:
        ConfigError: it cannot be fetched, is not the published one, or would write outside the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=folder) as made:
            file = Path(made, "archive")
            _copy(archive, file)
            with tarfile.open(file) as tar:
                # The filter refuses paths and links that lead out, and devices.
                tar.extractall(Path(made, "files"), filter="data")
            shutil.copytree(Path(made, "files"), folder, dirs_exist_ok=True)
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{archive.url} cannot be unpacked: {error}") from error
    except urllib.error.URLError as error:
        raise ConfigError(
            f"{archive.url} cannot be fetched: {error.reason}; unpack it into {folder} by hand"
        ) from error
    except OSError as error:
        raise ConfigError(f"{archive.url} cannot be fetched into {folder}: {error}") from error


def _copy(archive: Archive, file: Path) -> None:
    digest = hashlib.sha256()
    with urllib.request.urlopen(archive.url, timeout=_PATIENCE) as source, file.open("wb") as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != archive.sha256:
        raise ConfigError(
            f"{archive.url} has SHA-256 {digest.hexdigest()}, the published file has {archive.sha256}; try again later"
        )
