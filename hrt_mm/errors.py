"""Errors that a user can mend. Each message names the key or file, the value, what is allowed, and the fix."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints it without a traceback and exits with 2."""


class ConfigError(UserError):
    """A configuration that cannot be run: an unknown key, a value out of range, settings that contradict."""


class BadSample(UserError):
    """One sample that cannot be used. A data loader skips it, counts it and names it.

    Args:
        name: the file, or the row of the manifest.
        reason: what is wrong with it, and where known the fix.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class BackendError(UserError):
    """A forced attention backend that cannot serve the call; says why and what can."""
