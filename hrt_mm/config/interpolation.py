"""Environment variables in strings: ``${NAME}``, or ``${NAME:-default}`` with a default."""

from __future__ import annotations

import os
import re

from .messages import Problem
from .nodes import Keys, Node
from .yaml_reader import plain_node

_REFERENCE = re.compile(r"\$(\$\{|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\{)")


def interpolate(node: Node, problems: list[Problem], path: Keys = ()) -> Node:
    """Replaces the variables in all strings under a node. ``$${`` escapes ``${``.

    The result of an unquoted string is parsed as YAML again, so that ``steps: ${STEPS:-200}`` is a number.
    """
    if isinstance(node.value, dict):
        children = {key: interpolate(child, problems, (*path, key)) for key, child in node.value.items()}
        return Node(children, node.mark)
    if isinstance(node.value, list):
        items = [interpolate(child, problems, (*path, index)) for index, child in enumerate(node.value)]
        return Node(items, node.mark)
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    text = fill(node.value, node.mark, path, problems)
    return plain_node(text, node.mark) if node.plain else Node(text, node.mark)


def fill(text: str, mark: str, path: Keys, problems: list[Problem]) -> str:
    """Replaces the variables in a string. Those that are not set are appended to the problems."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "${":
            return "${"
        if match["name"] is None:
            problems.append(Problem(mark, path, f"{text!r} has a ${{ without NAME}}; write ${{NAME}} or $${{"))
            return match[0]
        # As in the shell's ${NAME:-default}, an empty variable counts as unset.
        variable = os.environ.get(match["name"])
        if variable or match["default"] is not None:
            return variable or match["default"]
        state = "empty" if variable is not None else "not set"
        problems.append(
            Problem(
                mark,
                path,
                f"the environment variable {match['name']} is {state}; run `export {match['name']}=...`, "
                f"or write ${{{match['name']}:-default}}, or override {'.'.join(map(str, path)) or 'the value'}",
            )
        )
        return match[0]

    return _REFERENCE.sub(value, text)
