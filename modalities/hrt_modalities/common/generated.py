"""Data that the project makes itself: made once, in a folder that goes with what it is made of, and kept."""

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

SUMS = Format("a folder of made data", "remove the folder, and it is made anew")
FILE = "files.json"
"""Lies beside the data and says what each of its files should be; folders of older versions have none."""
CHECKED_UP_TO = 256 << 20
"""Bytes of a folder whose files are compared with their checksums when it is opened; of more, sizes are compared."""
STALE = 3_600.0
"""Seconds after which a folder that no process is filling is one that a killed process left."""
_KIND = TypeAdapter(dict[str, Sum])


def cache_home() -> Path:
    """Where made data is kept unless a configuration says where: ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrt_mm"


def generated(kind: str, plan: str, home: Path | None, make: Callable[[Path], None], key: str) -> Path:
    """The folder of made data, which is made where there is none: aside, and moved to its place once it is whole.

    One whose files are damaged is made anew, with a warning.

    Args:
        kind: begins the folder's name.
        plan: all that makes the data what it is.
        home: where folders lie; :func:`cache_home` when absent.
        make: fills a folder.
        key: of the configuration, that ``home`` is set by; for messages.

    Raises:
        ConfigError: the folder cannot be written.
    """
    home = home or cache_home()
    folder = home / f"{kind}-{blake2b(plan.encode(), digest_size=8).hexdigest()}"
    if folder.is_dir() and _whole(folder):
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        _clear(home, kind)
        made = Path(mkdtemp(prefix=f".{kind}-", dir=home))
        try:
            with exclusive_lock(made):
                make(made)
                _sum_up(made)
                # Another process may have been faster; its folder is the same.
                if not folder.is_dir():
                    made.rename(folder)
                    (folder / LOCK).unlink(missing_ok=True)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():
            raise ConfigError(f"{folder} cannot be written: {error.strerror}; set {key}") from error
    return folder


def _sum_up(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    sums = {path.relative_to(folder).as_posix(): Sum.of_file(path).__dict__ for path in files}
    replace_file(folder / FILE, SUMS.encode({"files": sums}))


def _whole(folder: Path) -> bool:
    """Whether made data is as it was made; removes it where it is not."""
    path = folder / FILE
    if not path.is_file():
        return True
    try:
        sums = SUMS.check(path, SUMS.read(path).get("files"), _KIND)
        content = sum(checksum.bytes for checksum in sums.values()) <= CHECKED_UP_TO
        for name, expected in sums.items():
            expected.check(folder / name, "it is made anew", content=content)
    except UserError as error:
        log.warning("%s; %s is made anew", error, folder)
        aside = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        with suppress(OSError):
            folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        return False
    return True


def _clear(home: Path, kind: str) -> None:
    """Removes what killed processes left half made."""
    for left in home.glob(f".{kind}-*"):
        with suppress(OSError, UserError):
            if time.time() - left.stat().st_mtime > STALE and not left.is_symlink():
                with exclusive_lock(left):
                    shutil.rmtree(left, ignore_errors=True)
