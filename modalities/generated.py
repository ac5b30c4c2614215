"""Data that the project makes itself: made once, in a folder that goes with what it is made of, and kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

from hrt_mm.errors import ConfigError


def cache_home() -> Path:
    """Where made data is kept unless a configuration says where: ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrt_mm"


def generated(kind: str, plan: str, home: Path | None, make: Callable[[Path], None], key: str) -> Path:
    """The folder of made data, which is made where there is none: aside, and moved to its place once it is whole.

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
    if folder.is_dir():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = Path(mkdtemp(prefix=f".{kind}-", dir=home))
        try:
            make(made)
            # Another process may have been faster; its folder is the same.
            if not folder.is_dir():
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():
            raise ConfigError(f"{folder} cannot be written: {error.strerror}; set {key}") from error
    return folder
