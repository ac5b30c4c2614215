"""Error messages for configurations: all mistakes at once, each with line, key, value and what is allowed."""

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
        mark: file and line, or the override.
        path: keys from the root; empty for the whole file.
        text: what is wrong and what is allowed.
    """

    mark: str
    path: Keys
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.mark, dotted(self.path), self.text) if part)


def dotted(path: Keys) -> str:
    """A path in the notation of overrides, ``a.b.c``."""
    return ".".join(str(part) for part in path)


def show(value: Any) -> str:
    """A value in YAML notation, truncated."""
    # JSON is YAML, and writes null, true and nested values as a configuration has them.
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def nearest(word: object, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice whose spelling is closest to a word, ignoring case."""
    # difflib takes a letter in another case for another letter.
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def one_of(word: object, choices: Sequence[str], what: str) -> str:
    """The message for an unknown name: the closest choice, and all choices."""
    close = nearest(word, choices)
    hint = f"; did you mean {close!r}?" if close else ""
    listed = f"one of {', '.join(choices)}" if choices else "there are none"
    return f"unknown {what} {show(word)}{hint} ({listed})"


def fail(problems: Sequence[Problem]) -> None:
    """Raises an error if there are problems.

    Raises:
        ConfigError: lists all of them.
    """
    if not problems:
        return
    lines = list(dict.fromkeys(str(problem) for problem in sorted(problems, key=_sort_key)))
    raise ConfigError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes:", *lines]))


def _sort_key(problem: Problem) -> tuple[bool, str, int]:
    """By file and line, with overrides last."""
    source, _, line = problem.mark.rpartition(":")
    return (False, source, int(line)) if line.isdigit() else (True, problem.mark, 0)
