"""Validating sections against their components, and rewording pydantic's errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..core.component import Component
from .allowed import Allowed
from .messages import Problem, nearest, show
from .nodes import Keys, Node

_Config = TypeVar("_Config", bound=Component)


class Validator:
    """Validates the sections of one configuration.

    Args:
        root: the whole configuration.
        allowed: the schema.
        problems: mistakes are appended.
    """

    def __init__(self, root: Node, allowed: Allowed, problems: list[Problem]) -> None:
        self.root = root
        self.data = root.data()
        self.allowed = allowed
        self.problems = problems

    def section(self, path: Keys, component: type[_Config]) -> _Config | None:
        """Builds the component of a section, or of a part of one; None if it has mistakes."""
        deepest, depth = self.root.find(path)
        node = deepest if depth == len(path) else None
        try:
            # Strict JSON mode accepts a list for a tuple and text for a path, but not '64' for 64.
            return component.model_validate_json(json.dumps(node.data() if node else {}), strict=True)
        except ValidationError as error:
            self._add_errors(path, error.errors(include_url=False))
            return None

    def add(self, path: Keys, text: str) -> None:
        """Adds a problem, unless there is one for the same path."""
        if all(problem.path != path for problem in self.problems):
            self.problems.append(Problem(self.root.find(path)[0].mark, path, text))

    def _add_errors(self, section: Keys, errors: Iterable[ErrorDetails]) -> None:
        by_path: dict[Keys, list[ErrorDetails]] = {}
        for error in errors:
            by_path.setdefault(self._path(section, error), []).append(error)
        unknown = [path for path, path_errors in by_path.items() if path_errors[0]["type"] == "extra_forbidden"]
        meant = {(*path[:-1], nearest(path[-1], self.allowed.keys(path[:-1], self.data))) for path in unknown}
        for path, path_errors in by_path.items():
            # Report each mistake once: a misspelled required key is not also missing, and pydantic considers a list too
            # short if its items have mistakes.
            kind = path_errors[0]["type"]
            inner = any(other[: len(path)] == path and other != path for other in by_path)
            if not (kind == "missing" and path in meant) and not (kind == "too_short" and inner):
                self.add(path, self._text(path, path_errors))

    def _path(self, section: Keys, error: ErrorDetails) -> Keys:
        """The path of an error in the data. Pydantic's ``loc`` also contains branches of unions, which are dropped."""
        path = section
        deepest, depth = self.root.find(section)
        node = deepest if depth == len(section) else Node({}, self.root.mark)
        last = len(error["loc"]) - 1
        for index, part in enumerate(error["loc"]):
            child = node.child(part)
            # Parts that the data does not have are pydantic's own: names of union members and validators.
            if child is not None:
                path, node = (*path, part), child
            elif index == last and error["type"] == "missing":
                path = (*path, part)
        return (*path, "type") if error["type"] in ("union_tag_invalid", "union_tag_not_found") else path

    def _text(self, path: Keys, errors: list[ErrorDetails]) -> str:
        kinds = {error["type"] for error in errors}
        expected = self.allowed.words(path, self.data)
        if "extra_forbidden" in kinds:
            return self.allowed.unknown_key(path, self.data)
        if kinds & {"missing", "union_tag_not_found"}:
            return f"the key is missing; expected {expected}"
        node, depth = self.root.find(path)
        assert depth == len(path)
        choices = self.allowed.choices(path, self.data)
        if choices:
            close = nearest(node.value, choices)
            hint = f"did you mean {close!r}? " if close else ""
            return f"got {show(node.data())}; {hint}expected {expected}"
        messages = [str(error["ctx"]["error"]) for error in errors if "error" in error.get("ctx", {})]
        if messages:
            return "; ".join(dict.fromkeys(messages))
        # Rules that the schema cannot describe are in pydantic's message.
        expected = expected or "; ".join(dict.fromkeys(error["msg"] for error in errors))
        return f"got {show(node.data())}; expected {expected}"
