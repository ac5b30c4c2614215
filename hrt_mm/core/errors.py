"""Errors that a user can mend. Each message names the key or file, the value, what is allowed, and the fix."""

from __future__ import annotations

import re
import signal

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """A text that can be printed and written as UTF-8: lone surrogates become escapes of ASCII.

    Names of files that are not UTF-8 have such surrogates (:func:`os.fsdecode`), and JSON may hold any.
    """
    return text if text.isascii() else _SURROGATE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    # os.fsdecode stands U+DC80 to U+DCFF for bytes that are not UTF-8.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints it without a traceback and exits with 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(UserError):
    """A configuration that cannot be run: an unknown key, a value out of range, settings that contradict."""


class BadSample(UserError):
    """One sample that cannot be used. A data loader skips it, counts it and names it.

    Args:
        name: the file, or the row of the manifest.
        reason: what is wrong with it, and where known the fix.
    """

    def __init__(self, name: str, reason: str) -> None:
        name, reason = printable(name), printable(reason)
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class BackendError(UserError):
    """A forced attention backend that cannot serve the call; says why and what can."""


class Stopped(SystemExit):
    """A signal ended what was done, after it was saved. Uncaught, it ends the process as the signal would have.

    Args:
        number: of the signal. The process exits with 128 more: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(self.exit_code)

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    def __reduce__(self) -> tuple[type[Stopped], tuple[int]]:
        return type(self), (self.number,)
