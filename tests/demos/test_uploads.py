"""Uploads to a page: nothing of them is left on the disk, however the page ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demos.uploads import PREFIX, ending_with_the_terminal, upload_folder
from hrt_mm.core.errors import Stopped
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.search import Searcher


def uploading(port: int) -> socket.socket:
    """Begins to upload a picture, and sends a part of it alone."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = (
        f"POST /api/search?tower=image&name=a.png HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100000\r\n\r\n"
    )
    connection.sendall(head.encode() + b"private" * 1000)
    return connection


def waited(ready: Callable[[], bool]) -> None:
    for _ in range(1200):
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def answers(port: int) -> bool:
    with socket.socket() as item:
        return item.connect_ex(("127.0.0.1", port)) == 0


def test_uploads_are_gone_once_the_page_was_stopped(searcher: Searcher, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the extra demo is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert isinstance(searcher.index, Index)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "demos.search_page", str(searcher.index.folder), "--port", str(port)]
    environment = os.environ | {"BROWSER": "true", "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        waited(lambda: server.poll() is not None or answers(port))
        with uploading(port):
            waited(lambda: bool(list(temporary.glob(f"{PREFIX}*/*.png"))))
            server.terminate()
            server.terminate()
            server.wait()
        assert list(temporary.rglob("*")) == []
    finally:
        server.kill()
        server.wait()


def _upload_until_the_end() -> None:
    with ending_with_the_terminal(), upload_folder() as folder:
        assert tempfile.gettempdir() == str(folder)
        (folder / "private.png").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(60)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_the_folder_goes_when_the_terminal_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Stopped):
            _upload_until_the_end()
        assert list(tmp_path.iterdir()) == []
        assert tempfile.tempdir == str(tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_killed_page_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("killed", "alive", "strange"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "private.png").write_bytes(b"x")
    (tmp_path / f"{PREFIX}killed" / ".lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / f"{PREFIX}killed")
    with exclusive_lock(tmp_path / f"{PREFIX}alive"), upload_folder() as item:
        left = {path.name.removeprefix(PREFIX) for path in tmp_path.iterdir()}
        assert left == {"alive", "strange", "link", item.name.removeprefix(PREFIX)}
    assert not item.exists()
