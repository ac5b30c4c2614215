"""Fits scalars to what is asked for at their key: paths as a shell user means them, numbers in scientific notation.

YAML reads ``20261129`` as a number wherever it stands. Where only a path or text may stand, it is text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from .allowed import Allowed
from .messages import Problem
from .nodes import Keys, Node
from .schema import Schema

HOME = "~"
"""As an override, the home folder where a path is asked for, and null elsewhere; in YAML it is null."""
_VARIABLE = re.compile(r"(?:^|/)\$([A-Za-z_][A-Za-z0-9_]*)")


def fit(root: Node, allowed: Allowed, problems: list[Problem]) -> None:
    """Changes the scalars of a configuration in place.

    Args:
        root: the whole configuration, with its variables filled in.
        allowed: what its schema allows.
        problems: where mistakes are added.
    """
    data = root.data()
    for path, node in _scalars(root, ()):
        if _may_change(node):
            _fit(node, allowed.at(path, data), path, problems)


def _scalars(node: Node, path: Keys) -> Iterator[tuple[Keys, Node]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _scalars(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _scalars(child, (*path, index))
    else:
        yield path, node


def _may_change(node: Node) -> bool:
    """Whether the schema need be asked, which takes longer."""
    if isinstance(node.value, str):
        return node.value.startswith(HOME) or "$" in node.value or "\0" in node.value
    return node.text is not None and node.value is not None


def _fit(node: Node, schemas: list[Schema], path: Keys, problems: list[Problem]) -> None:
    is_path = any(schema.get("format") == "path" for schema in schemas)
    if isinstance(node.value, str):
        if is_path:
            node.value = _as_path(node, path, problems)
        elif node.value == HOME and node.plain:
            node.value = None
        return
    kinds = {schema.get("type") for schema in schemas}
    if is_path or (_is_free_text(schemas) and not kinds & {"integer", "number", "boolean"}):
        node.value = node.text
    elif isinstance(node.value, float) and "integer" in kinds and "number" not in kinds:
        node.value = _whole(node.value, str(node.text))


def _as_path(node: Node, path: Keys, problems: list[Problem]) -> str:
    text = str(node.value)
    if "\0" in text:
        problems.append(Problem(node.mark, path, f"{text!r} is no path: it has a null character"))
    for found in _VARIABLE.finditer(text):
        if found[1] in os.environ:
            fix = f"write ${{{found[1]}}} for the environment variable"
            problems.append(Problem(node.mark, path, f"{text!r} has ${found[1]}, which is not replaced here; {fix}"))
    return os.path.expanduser(text)


def _is_free_text(schemas: list[Schema]) -> bool:
    return any(
        schema.get("type") == "string" and not schema.keys() & {"const", "enum", "pattern"} for schema in schemas
    )


def _whole(value: float, text: str) -> Any:
    """``1e4`` as a whole number, where it is one; ``10000.0`` stays as it is."""
    return int(value) if "e" in text.lower() and value.is_integer() else value
