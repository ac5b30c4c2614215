"""Cache folders of generated data, named by a hash of the settings that generate it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

from pydantic import TypeAdapter

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.data.atomic_files import LOCK, exclusive_lock, replace_file
from hrt_mm.data.storage import Format, Sum

log = logging.getLogger(__name__)

SUMS = Format("a folder of generated data", "remove the folder, and it is generated again")
FILE = "files.json"
"""Checksums of the data files, beside them; folders of older versions have none."""
CHECKED_UP_TO = 256 << 20
"""Size in bytes up to which a folder is verified by checksums when it is opened; larger ones by file sizes."""
STALE = 3_600.0
"""Age in seconds from which an unlocked temporary folder counts as left by a killed process."""
_KIND = TypeAdapter(dict[str, Sum])


def cache_home() -> Path:
    """The default folder of generated data: ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrt_mm"


def generated(kind: str, plan: str, home: Path | None, make: Callable[[Path], None], key: str) -> Path:
    """The folder of generated data. Missing data is generated in a temporary folder, which is renamed when complete.

    Damaged data is generated again, with a warning.

    Args:
        kind: prefix of the folder's name.
        plan: everything that the data depends on.
        home: parent of the folder; :func:`cache_home` when absent.
        make: fills a folder.
        key: the setting of ``home``, for messages.

    Raises:
        ConfigError: the folder cannot be written.
    """
    home = home or cache_home()
    folder = home / f"{kind}-{blake2b(plan.encode(), digest_size=8).hexdigest()}"
    if folder.is_dir() and _is_intact(folder):
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        # What killed processes left.
        for path in home.glob(f".{kind}-*"):
            with suppress(OSError, UserError):
                if time.time() - path.stat().st_mtime > STALE and not path.is_symlink():
                    with exclusive_lock(path):
                        shutil.rmtree(path, ignore_errors=True)
        temporary = Path(mkdtemp(prefix=f".{kind}-", dir=home))
        try:
            with exclusive_lock(temporary):
                make(temporary)
                files = [path for path in sorted(temporary.rglob("*")) if path.is_file() and path.name != LOCK]
                sums = {path.relative_to(temporary).as_posix(): Sum.of_file(path).__dict__ for path in files}
                replace_file(temporary / FILE, SUMS.encode({"files": sums}))
                # Another process may have been faster; its folder is the same.
                if not folder.is_dir():
                    temporary.rename(folder)
                    (folder / LOCK).unlink(missing_ok=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():
            raise ConfigError(f"{folder} cannot be written: {error.strerror}; set {key}") from error
    return folder


def _is_intact(folder: Path) -> bool:
    """Whether the files of a folder match their checksums; removes the folder if not."""
    path = folder / FILE
    if not path.is_file():
        return True
    try:
        sums = SUMS.check(path, SUMS.read(path).get("files"), _KIND)
        content = sum(checksum.bytes for checksum in sums.values()) <= CHECKED_UP_TO
        for name, expected in sums.items():
            expected.check(folder / name, "it is generated again", content=content)
    except UserError as error:
        log.warning("%s; %s is generated again", error, folder)
        aside = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        with suppress(OSError):
            folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        return False
    return True
