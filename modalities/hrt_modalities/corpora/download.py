"""Downloads archives of datasets: only on request, only known files, verified by checksum before they are opened."""

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
_TIMEOUT_S = 60
"""Seconds without data after which a download fails."""


@dataclass(frozen=True)
class Archive:
    """A tar file.

    Args:
        url: of the file.
        sha256: of the file.
    """

    url: str
    sha256: str


def fetch(archive: Archive, folder: Path) -> None:
    """Downloads and unpacks an archive into a folder, which is created. Existing files stay.

    Raises:
        ConfigError: it cannot be downloaded, its checksum is wrong, or it would write outside of the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            file = Path(temporary, "archive")
            digest = hashlib.sha256()
            with urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as source, file.open("wb") as target:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    target.write(block)
            if digest.hexdigest() != archive.sha256:
                raise ConfigError(
                    f"{archive.url} has SHA-256 {digest.hexdigest()}, the published file has {archive.sha256}; try "
                    "again later"
                )
            with tarfile.open(file) as tar:
                # The filter refuses devices, and paths and links that lead out of the folder.
                tar.extractall(Path(temporary, "files"), filter="data")
            shutil.copytree(Path(temporary, "files"), folder, dirs_exist_ok=True)
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{archive.url} cannot be unpacked: {error}") from error
    except urllib.error.URLError as error:
        raise ConfigError(
            f"{archive.url} cannot be fetched: {error.reason}; unpack it into {folder} by hand"
        ) from error
    except OSError as error:
        raise ConfigError(f"{archive.url} cannot be fetched into {folder}: {error}") from error
