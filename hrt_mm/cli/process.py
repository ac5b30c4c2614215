"""Running a command as a process: output encoding, signals and exit codes."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..core.errors import Stopped, UserError

USER_ERROR = 2
REPLACE = "hrt_mm.replace"
"""Name of the error handler that replaces a character by a similar one."""
_RESEMBLING = {"─": "-", "━": "-", "│": "|", "→": "->", "←": "<-", "·": "*", "…": "..."}

INTERRUPTED = 128 + signal.SIGINT


def as_process(
    run: Callable[[], int], *, mistakes: tuple[type[Exception], ...] = (UserError,), traceback: bool = False
) -> int:
    """Runs a command.

    Args:
        run: returns the exit code.
        mistakes: exceptions to print on one line.
        traceback: raise them instead.

    Returns:
        The exit code: that of ``run``, 2 after such an exception, 130 after Ctrl-C, 143 after SIGTERM.
    """
    printable_output()
    with ending_on_sigterm():
        try:
            code = run()
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Stopped as stop:
            return stop.exit_code
        except BrokenPipeError:
            # The reader, such as `head`, has exited. Redirect stdout, or Python would fail again on closing it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except mistakes as error:
            if traceback:
                raise
            hint = "" if isinstance(error, UserError) else " (--traceback shows where)"
            print(f"error: {error}{hint}", file=sys.stderr)
            return USER_ERROR


def printable_output() -> None:
    """Makes standard output and error replace characters that their encoding lacks, instead of failing.

    Terminals and pipes may use ASCII or a code page, and file names may be invalid UTF-8.
    """
    codecs.register_error(REPLACE, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace" if is_unicode(stream) else REPLACE)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_RESEMBLING.get(char, "?") for char in error.object[error.start : error.end]), error.end


def is_unicode(stream: object) -> bool:
    """Whether a text stream can encode all characters."""
    encoding = getattr(stream, "encoding", None)
    return encoding is None or str(encoding).lower().replace("-", "").startswith("utf")


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Raises :class:`Stopped` on SIGTERM, so that temporary files are removed. No-op outside of the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
