"""Converts scalars to the type that the schema expects: ``~`` in paths, and numbers in scientific notation.

YAML reads ``20261129`` as a number. Where the schema allows only a path or text, it is converted to text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from .allowed import Allowed
from .messages import Problem
from .nodes import Keys, Node
from .schema import Schema

HOME = "~"
"""In an override, the home folder where a path is expected and null elsewhere. In YAML, always null."""
_VARIABLE = re.compile(r"(?:^|/)\$([A-Za-z_][A-Za-z0-9_]*)")


def fit(root: Node, allowed: Allowed, problems: list[Problem]) -> None:
    """Converts the scalars of a configuration in place.

    Args:
        root: the whole configuration, after interpolation.
        allowed: the schema.
        problems: mistakes are appended.
    """
    data = root.data()
    for path, node in _scalars(root, ()):
        # Most scalars are what they seem, and finding the schema of one walks the whole tree.
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
    """Whether a scalar may need conversion. Looking up its schema is slower."""
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
    free_text = any(
        schema.get("type") == "string" and not schema.keys() & {"const", "enum", "pattern"} for schema in schemas
    )
    if is_path or (free_text and not kinds & {"integer", "number", "boolean"}):
        node.value = node.text
    elif isinstance(node.value, float) and "integer" in kinds and "number" not in kinds and node.value.is_integer():
        # 1e4 is meant as a whole number; 10000.0 may be a mistake, which validation reports.
        node.value = int(node.value) if "e" in str(node.text).lower() else node.value


def _as_path(node: Node, path: Keys, problems: list[Problem]) -> str:
    text = str(node.value)
    if "\0" in text:
        problems.append(Problem(node.mark, path, f"{text!r} is no path: it has a null character"))
    for match in _VARIABLE.finditer(text):
        if match[1] in os.environ:
            fix = f"write ${{{match[1]}}} for the environment variable"
            problems.append(Problem(node.mark, path, f"{text!r} has ${match[1]}, which is not replaced here; {fix}"))
    return os.path.expanduser(text)
