"""How mistakes are told: all at once, each with its place, its path, its value and what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from .nodes import Keys


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Args:
        mark: where it was written.
        path: keys from the root; empty for the whole file.
        text: what is wrong and what is allowed.
    """

    mark: str
    path: Keys
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.mark, dotted(self.path), self.text) if part)


def dotted(path: Keys) -> str:
    """A path as it is written in an override."""
    return ".".join(str(part) for part in path)


def show(value: Any) -> str:
    """A value as YAML would have it, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def nearest(word: object, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice that is spelled most like a word, upper and lower case alike."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def one_of(word: object, choices: Sequence[str], what: str) -> str:
    """Why a word that names nothing is wrong: the nearest choice first, then all of them."""
    close = nearest(word, choices)
    hint = f"; did you mean {close!r}?" if close else ""
    listed = f"one of {', '.join(choices)}" if choices else "there are none"
    return f"unknown {what} {show(word)}{hint} ({listed})"


def fail(problems: Sequence[Problem]) -> None:
    """Raises what was found, if anything.

    Raises:
        ConfigError: there is a problem; the message lists all of them.
    """
    if not problems:
        return
    lines = list(dict.fromkeys(str(problem) for problem in sorted(problems, key=_place)))
    raise ConfigError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes:", *lines]))


def _place(problem: Problem) -> tuple[bool, str, int]:
    """Sorts by file and line, and the command line last."""
    source, _, line = problem.mark.rpartition(":")
    return (False, source, int(line)) if line.isdigit() else (True, problem.mark, 0)
