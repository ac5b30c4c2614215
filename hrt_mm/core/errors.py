"""Errors that a user can fix. Messages name the key or file, the value, what is allowed, and the fix."""

from __future__ import annotations

import re
import signal

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with lone surrogates escaped, so that it can be printed and encoded as UTF-8.

    Names of files that are not UTF-8 contain such surrogates (:func:`os.fsdecode`), and so may JSON.
    """
    return text if text.isascii() else _SURROGATE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    # os.fsdecode maps undecodable bytes to U+DC80 to U+DCFF.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


class UserError(ValueError):
    """Invalid input from the user. The command line prints it without a traceback and exits with code 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(UserError):
    """An invalid configuration: an unknown key, a value out of range, or settings that contradict each other."""


class BadSample(UserError):
    """A sample that cannot be used. Data loaders skip, count and report it.

    Args:
        name: the file, or the row of the manifest.
        reason: what is wrong with it and, if known, the fix.
    """

    def __init__(self, name: str, reason: str) -> None:
        name, reason = printable(name), printable(reason)
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class BackendError(UserError):
    """The requested attention backend does not support the call. The message says why, and which backends do."""


class Stopped(SystemExit):
    """A signal stopped the program after it saved its state. Uncaught, it exits as the signal would have.

    Args:
        number: signal number. The exit code is 128 more: 130 after SIGINT, 143 after SIGTERM, 138 after SIGUSR1.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(self.exit_code)

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    def __reduce__(self) -> tuple[type[Stopped], tuple[int]]:
        return type(self), (self.number,)
