"""The folder that a page's uploads lie in: private, and gone with the page."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.data.atomic_files import LOCK, exclusive_lock

PREFIX = "hrt-mm-uploads-"


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder that takes all temporary files of this process inside the ``with``. It is removed at the end.

    Folders that killed processes left behind are removed at the beginning.
    """
    _clear()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    directory = tempfile.tempdir
    try:
        # The lock says that a process is alive that uses the folder.
        with exclusive_lock(folder):
            tempfile.tempdir = str(folder)
            yield folder
    finally:
        with _undisturbed():
            tempfile.tempdir = directory
            for _ in range(10):
                # A thread of the server may still add a file.
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break


@contextmanager
def ending_with_the_terminal() -> Iterator[None]:
    """SIGHUP raises :class:`~hrt_mm.core.errors.Stopped`, unless it is ignored, as under ``nohup``."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second signal does not end what the first one began."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _clear() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, UserError):
            status = left.lstat()
            # Only what is this user's, no link, and locked once by a process that has ended.
            if left.is_symlink() or status.st_uid != os.getuid() or not (left / LOCK).exists():
                continue
            with exclusive_lock(left):
                shutil.rmtree(left, ignore_errors=True)
